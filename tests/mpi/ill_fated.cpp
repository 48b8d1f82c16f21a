/// @file
/// A training run whose rank 1 kills itself, or throws: `ill_fated <forward|backward|read|step|throw> <timeout in ms>`.
#include <mpi.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include <zerospan/comm/run_mpi_rank.hpp>
#include <zerospan/zerospan.hpp>

#include "support/toy_model.hpp"
#include "support/training_run.hpp"

namespace {

/// AdamW, but that an update may be the last thing that this process does.
struct DeadlyAdamW {
  std::size_t state_bytes(std::size_t elements) const { return rule.state_bytes(elements); }
  void update(const zerospan::ShardUpdate& shard) const {
    if (kills && shard.step == 2) std::raise(SIGKILL);
    rule.update(shard);
  }

  zerospan::AdamW rule;
  bool kills;
};
static_assert(zerospan::Optimizer<DeadlyAdamW>);

/// An engine of threads, but that the process may die while a read is under way.
class DeadlyIo {
 public:
  void submit(const zerospan::IoRequest& request, zerospan::IoCallback callback) {
    threads_.submit(request, std::move(callback));
    if (kills_ && request.direction == zerospan::IoDirection::read) std::raise(SIGKILL);
  }
  std::size_t queue_depth() const { return threads_.queue_depth(); }
  std::string_view name() const { return threads_.name(); }

  /// The next read is the last.
  void kill_in_read() { kills_ = true; }

 private:
  zerospan::ThreadedIoEngine threads_;
  std::atomic<bool> kills_ = false;
};
static_assert(zerospan::IoEngine<DeadlyIo>);

void train(zerospan::MpiCommunicator& communicator, std::string_view where) {
  using zerospan_test::Place;
  const bool dies = communicator.rank().value == 1;
  DeadlyIo io;
  const zerospan::Bytes budget{std::size_t{64} << 20};
  zerospan_test::Memory<DeadlyIo> memory{io, budget, budget};
  zerospan::ZeroEngine engine{zerospan::Stage3{},
                              communicator,
                              memory.device,
                              memory.placement(Place::device, Place::host, Place::nvme),
                              DeadlyAdamW{{}, dies && where == "step"},
                              zerospan::EngineOptions{.persistence_threshold = zerospan::Bytes{0}}};
  const zerospan_test::ToyModel<float> model{engine};
  const zerospan_test::Route route = zerospan_test::full_route();
  const zerospan_test::Route first_half{route.begin(), route.begin() + 5};
  const zerospan_test::Route last_half{route.begin() + 5, route.end()};
  for (std::int64_t step = 0; step < 4; ++step) {
    const zerospan_test::Position at{communicator.rank().value, step, 0};
    const bool dies_now = dies && step == 1;
    if (dies_now && where == "read") io.kill_in_read();
    if (dies_now && where == "throw") throw std::runtime_error{"my own reasons"};
    model.forward(dies_now && where == "forward" ? first_half : route, at);
    if (dies_now && where == "forward") std::raise(SIGKILL);
    model.backward(dies_now && where == "backward" ? last_half : route, at);
    if (dies_now && where == "backward") std::raise(SIGKILL);
    engine.step();
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return EXIT_FAILURE;
  int provided = MPI_THREAD_SINGLE;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  zerospan::run_mpi_rank(MPI_COMM_WORLD, [&](zerospan::MpiCommunicator communicator) { train(communicator, argv[1]); },
                         {.communicator = {.timeout = std::chrono::milliseconds{std::stoi(argv[2])}}, .exit_code = 3});
  MPI_Finalize();
}
