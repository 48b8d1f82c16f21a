#include "fake_gpu_run.hpp"

#include <chrono>
#include <memory>
#include <utility>

#include <zerospan/engine/detail/make_engine.hpp>
#include <zerospan/zerospan.hpp>

#include "engines.hpp"
#include "training_run.hpp"

namespace zerospan::inline v0 {

template std::shared_ptr<detail::Engine> detail::make_engine<zerospan_test::FakeDevice>(
    AnyCommunicator, zerospan_test::FakeDevice&, const Placement&,
    std::shared_ptr<const detail::OptimizerInterface<zerospan_test::FakeStream>>, const EngineOptions&, StageRules);

}  // namespace zerospan::inline v0

namespace zerospan_test {

zerospan::StreamDeviceOptions tight_budgets(const Needs& needs) {
  return {.device_budget = needs.device() + zerospan::Bytes{staged_on_device},
          .host_budget = needs.host() + zerospan::Bytes{staged_on_host}};
}

TrainingResult train_on_fake_gpu(const std::shared_ptr<FakeGpu>& gpu, zerospan::ThreadCommunicator threads,
                                 const Configuration& c) {
  zerospan::ThreadedIoEngine io;
  const Needs needs{c, threads.rank()};
  const zerospan::Bytes roomy{std::size_t{64} << 20};
  const zerospan::StreamDeviceOptions budgets =
      c.budget == Budget::tight ? tight_budgets(needs) : zerospan::StreamDeviceOptions{roomy, roomy};
  Memory<zerospan::ThreadedIoEngine, FakeDevice> memory{io, [&] { return FakeDevice{FakeRuntime{gpu}, budgets}; }};
  FakeCommunicator communicator{std::move(threads), memory.device};
  return train_on(io, memory, communicator, c, FakeCompute{gpu});
}

TrainingResult train_on_fake_gpu(const Configuration& c) {
  const auto gpu = std::make_shared<FakeGpu>();
  return join_results(zerospan::run_ranks(
      c.training.ranks,
      [&](zerospan::ThreadCommunicator threads) { return train_on_fake_gpu(gpu, std::move(threads), c); },
      {.timeout = std::chrono::seconds{30}}));
}

}  // namespace zerospan_test
