/// @file
/// LeaseTable: who holds what.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/partition/parameter_store.hpp>
#include <zerospan/pipeline/overlap_pipeline.hpp>

namespace zerospan::inline v0 {

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

  /// "a read lease of wte, a gradient lease of wpe", or nothing; `name` maps a use to its name.
  template <class Name>
  std::string held(Name name) const {
    std::string text;
    for (const LeaseRecord& lease : leases_) {
      if (lease.kind == LeaseRecord::Kind::free || lease.kind == LeaseRecord::Kind::committed) continue;
      text += text.empty() ? "" : ", ";
      text += lease.kind == LeaseRecord::Kind::read    ? "a read lease of "
              : lease.kind == LeaseRecord::Kind::write ? "a write lease of "
                                                       : "a gradient lease of ";
      text += name(lease.use);
    }
    return text;
  }

 private:
  std::vector<LeaseRecord> leases_;
};

}  // namespace zerospan::inline v0
