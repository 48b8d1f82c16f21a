/// What the files beside it make their mistakes with: a tensor of the host's, adapted, and an engine.
#pragma once

#include <cstddef>

#include <zerospan/comm/self_communicator.hpp>
#include <zerospan/device/host_device.hpp>
#include <zerospan/engine/zero_engine.hpp>
#include <zerospan/optimizer/adamw.hpp>
#include <zerospan/partition/partitioned_parameter.hpp>
#include <zerospan/tier/host_tier.hpp>

namespace my {

struct Tensor {
  std::size_t elements;
  float* data;
};

}  // namespace my

template <>
struct zerospan::TensorTraits<my::Tensor> {
  using element_type = float;
  static my::Tensor unbound(const Shape& shape) { return {shape.elements(), nullptr}; }
  static void bind(my::Tensor& tensor, float* data) { tensor.data = data; }
  static float* data(const my::Tensor& tensor) { return tensor.data; }
};

using Parameter = zerospan::PartitionedParameter<my::Tensor>;
using Engine =
    zerospan::ZeroEngine<zerospan::Stage3, zerospan::SelfCommunicator, zerospan::HostDevice, zerospan::AdamW>;
