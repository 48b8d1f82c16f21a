/// @file
/// LeaseTable: who holds what.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/engine/detail/model_states.hpp>
#include <zerospan/partition/parameter_store.hpp>
#include <zerospan/pipeline/detail/overlap_pipeline.hpp>

namespace zerospan::inline v0::detail {

/// A lease that was handed out.
struct LeaseRecord {
  enum class Kind : std::uint8_t { free, read, write, gradient, committed };

  Kind kind = Kind::free;
  ParameterId use{};
  StreamRef stream;
  OverlapPipeline::Buffer buffer{};  ///< Of a write or gradient lease; read leases share their gather's.
};

/// The leases held. Identifiers are reused, the lowest free one first.
class LeaseTable {
 public:
  explicit LeaseTable(const ModelStates& states) : states_{states} {}

  LeaseId add(LeaseRecord lease) {
    for (std::size_t i = 0; i < leases_.size(); ++i) {
      if (leases_[i].kind == LeaseRecord::Kind::free) {
        leases_[i] = std::move(lease);
        return static_cast<LeaseId>(i);
      }
    }
    leases_.push_back(std::move(lease));
    return static_cast<LeaseId>(leases_.size() - 1);
  }

  LeaseRecord& operator[](LeaseId id) { return leases_[static_cast<std::size_t>(id)]; }

  void remove(LeaseId id) { (*this)[id] = {}; }

  /// "a read lease of wte, a gradient lease of wpe", or nothing.
  std::string held() const {
    std::string text;
    for (const LeaseRecord& lease : leases_) {
      if (lease.kind == LeaseRecord::Kind::free || lease.kind == LeaseRecord::Kind::committed) continue;
      text += text.empty() ? "" : ", ";
      text += lease.kind == LeaseRecord::Kind::read    ? "a read lease of "
              : lease.kind == LeaseRecord::Kind::write ? "a write lease of "
                                                       : "a gradient lease of ";
      text += states_.uses[static_cast<std::size_t>(lease.use)].name;
    }
    return text;
  }

  /// @throws LeaseError if anything is leased; `call` is what may not be called then.
  void check_nothing_held(const char* call) const {
    if (const std::string leases = held(); !leases.empty()) {
      throw_lease_error(std::string{call} + " while leases are held: " + leases);
    }
  }

  /// Refuses a buffer that does not fit beside the leases held.
  [[noreturn]] void refuse(const std::string& what, std::size_t bytes, const OverlapPipeline& pipeline) const {
    const std::string leases = held();
    throw_budget_error(what + " in device memory", Bytes{bytes}, Bytes{pipeline.largest_free()},
                       leases.empty() ? "raise the device budget" : "release one of the leases held first: " + leases);
  }

 private:
  const ModelStates& states_;
  std::vector<LeaseRecord> leases_;
};

}  // namespace zerospan::inline v0::detail
