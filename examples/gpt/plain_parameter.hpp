/// @file
/// A parameter that is an ordinary tensor in memory: what the model is checked with, and an oracle without zerospan.
#pragma once

#include <cstddef>
#include <deque>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <zerospan/core/initializer.hpp>
#include <zerospan/core/shape.hpp>
#include <zerospan/core/stream.hpp>
#include <zerospan/partition/parameter_store.hpp>

#include "tensor.hpp"

namespace gpt {

/// Owns values and gradients, in declaration order. A tied use adds to the gradient of the parameter it refers to.
/// @tparam Allocator Of memory that the computation can address.
template <class E, class Allocator = std::allocator<E>>
class PlainStore {
 public:
  using Values = std::vector<E, Allocator>;

  struct Entry {
    std::string name;
    Values values;
    Values gradient;
    zerospan::ParameterOptions options;
  };

  explicit PlainStore(std::uint64_t seed) : seed_{seed} {}

  Entry& declare(std::string name, std::size_t elements, const zerospan::Initializer& initializer,
                 zerospan::ParameterOptions options) {
    std::vector<float> values(elements);
    initializer({.seed = seed_, .stream = zerospan::name_stream(name)}, 0, values);
    entries_.push_back({std::move(name), {values.begin(), values.end()}, Values(elements), options});
    return entries_.back();
  }

  std::deque<Entry>& entries() { return entries_; }

  void clear_gradients() {
    for (Entry& entry : entries_) entry.gradient.assign(entry.gradient.size(), E{0});
  }

 private:
  std::uint64_t seed_;
  std::deque<Entry> entries_;  // references to entries stay valid
};

/// Has the members of zerospan::PartitionedParameter that the model uses.
template <class E, class Allocator = std::allocator<E>>
class PlainParameter {
 public:
  using tensor_type = Tensor<E>;
  using Store = PlainStore<E, Allocator>;

  class ReadLease {
   public:
    explicit ReadLease(Tensor<E> tensor) : tensor_{tensor} {}
    const Tensor<E>& operator*() const { return tensor_; }

   private:
    Tensor<E> tensor_;
  };

  /// Starts as not-a-number, so that an element that nobody writes is noticed.
  class GradientLease {
   public:
    GradientLease(typename Store::Entry& entry, std::size_t rows, std::size_t columns)
        : entry_{&entry},
          memory_(entry.gradient.size(), std::numeric_limits<E>::quiet_NaN()),
          tensor_{memory_.data(), rows, columns} {}
    Tensor<E>& operator*() { return tensor_; }
    void commit() {
      for (std::size_t i = 0; i < memory_.size(); ++i) entry_->gradient[i] += memory_[i];
    }

   private:
    typename Store::Entry* entry_;
    typename Store::Values memory_;
    Tensor<E> tensor_;
  };

  PlainParameter(Store& store, std::string name, zerospan::Shape shape, const zerospan::Initializer& initializer,
                 zerospan::ParameterOptions options = {})
      : entry_{&store.declare(std::move(name), shape.elements(), initializer, options)},
        rows_{shape.elements() / shape[shape.rank() - 1]},
        columns_{shape[shape.rank() - 1]} {}

  PlainParameter tie(const std::string&) const { return *this; }
  ReadLease gather(zerospan::StreamRef) const { return ReadLease{Tensor<E>{entry_->values.data(), rows_, columns_}}; }
  GradientLease gradient(zerospan::StreamRef) const { return {*entry_, rows_, columns_}; }

 private:
  typename Store::Entry* entry_;
  std::size_t rows_;
  std::size_t columns_;
};

/// Counterpart of zerospan::gather for groups.
template <class E, class Allocator, class... More>
std::tuple<typename PlainParameter<E, Allocator>::ReadLease, typename More::ReadLease...> gather(
    zerospan::StreamRef stream, const PlainParameter<E, Allocator>& first, const More&... more) {
  return {first.gather(stream), more.gather(stream)...};
}

}  // namespace gpt
