/// @file
/// LeaseTable: who holds what.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
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
  enum class Kind : std::uint8_t {
    free,
    read,
    write,
    gradient,
    ended,  ///< By the engine; its holder does not know yet.
  };

  Kind kind = Kind::free;
  ParameterId use{};
  StreamRef stream = calling_thread;
  OverlapPipeline::Buffer buffer{};  ///< Of a write or gradient lease; read leases share their gather's.
};

/// The leases held. Identifiers are reused, the lowest free one first.
class LeaseTable {
 public:
  explicit LeaseTable(const ModelStates& states) : states_{states} {}

  LeaseId add(LeaseRecord lease) {
    ++held_;
    if (free_.empty()) {
      leases_.push_back(std::move(lease));
      return static_cast<LeaseId>(leases_.size() - 1);
    }
    std::ranges::pop_heap(free_, std::greater{});
    const std::size_t slot = free_.back();
    free_.pop_back();
    leases_[slot] = std::move(lease);
    return static_cast<LeaseId>(slot);
  }

  /// @throws LeaseError if the engine has ended the lease.
  const LeaseRecord& operator[](LeaseId id) const {
    const LeaseRecord& lease = leases_[static_cast<std::size_t>(id)];
    if (lease.kind == LeaseRecord::Kind::ended) {
      throw_lease_error("the lease of " + name(lease) + " was ended by abandon()");
    }
    return lease;
  }

  bool is_ended(LeaseId id) const { return leases_[static_cast<std::size_t>(id)].kind == LeaseRecord::Kind::ended; }

  /// Frees the slot of a lease; its holder has given it back.
  void remove(LeaseId id) {
    const auto slot = static_cast<std::size_t>(id);
    if (!is_ended(id)) --held_;
    leases_[slot] = {};
    free_.push_back(slot);
    std::ranges::push_heap(free_, std::greater{});
  }

  /// Ends every lease held: `end(lease)` for each, in the order of their slots. The slots stay taken until their
  /// holders give them back.
  template <class End>
  void end_all(End end) {
    for (LeaseRecord& lease : leases_) {
      if (!is_held(lease)) continue;
      end(lease);
      lease.kind = LeaseRecord::Kind::ended;
    }
    held_ = 0;
  }

  /// "a read lease of wte, a gradient lease of wpe", or nothing.
  std::string held() const {
    std::string text;
    if (held_ == 0) return text;
    for (const LeaseRecord& lease : leases_) {
      if (!is_held(lease)) continue;
      text += text.empty() ? "" : ", ";
      text += lease.kind == LeaseRecord::Kind::read    ? "a read lease of "
              : lease.kind == LeaseRecord::Kind::write ? "a write lease of "
                                                       : "a gradient lease of ";
      text += name(lease);
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
  static bool is_held(const LeaseRecord& lease) {
    return lease.kind != LeaseRecord::Kind::free && lease.kind != LeaseRecord::Kind::ended;
  }

  const std::string& name(const LeaseRecord& lease) const {
    return states_.uses[static_cast<std::size_t>(lease.use)].name;
  }

  const ModelStates& states_;
  std::vector<LeaseRecord> leases_;
  std::vector<std::size_t> free_;  ///< A heap, the lowest on top.
  std::size_t held_ = 0;
};

}  // namespace zerospan::inline v0::detail
