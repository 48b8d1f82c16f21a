/// Processes save together, and as many or fewer load what they saved.

#include <doctest/doctest.h>

#include <mpi.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/checkpoint/checkpoint.hpp>
#include <zerospan/comm/mpi_communicator.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/zerospan.hpp>

#include "support/forwarded_files.hpp"
#include "support/mpi_world.hpp"
#include "support/scratch.hpp"
#include "support/toy_model.hpp"
#include "support/training_run.hpp"

namespace {

using zerospan::Bytes;
using zerospan_test::Array;
using zerospan_test::process_rank;
using zerospan_test::share;

/// An engine with a few parameters, and gradients that depend on the rank and the step.
class SmallRank {
 public:
  explicit SmallRank(zerospan::MpiCommunicator& communicator)
      : rank_{communicator.rank().value},
        engine_{zerospan::Stage3{},
                communicator,
                device_,
                zerospan::Placement{tier_, tier_, tier_},
                zerospan::AdamW{},
                {.persistence_threshold = Bytes{0}}} {
    for (const auto& [name, shape] : {std::pair{"large", zerospan::Shape{100, 101}}, {"small", zerospan::Shape{7}}}) {
      parameters_.emplace_back(engine_, name, shape, zerospan::init::normal(1.0F));
    }
  }

  auto& engine() { return engine_; }
  std::uint64_t hash() { return zerospan_test::hash_masters(engine_); }

  void step() {
    for (const Parameter& parameter : parameters_) {
      auto gradient = parameter.gradient(zerospan::calling_thread);
      for (std::size_t k = 0; k < gradient->size; ++k) {
        gradient->data[k] = zerospan_test::noise(0, {rank_, engine_.progress().step, 0}, k);
      }
      gradient.commit();
    }
    engine_.step();
  }

 private:
  using Parameter = zerospan::PartitionedParameter<Array<float>>;

  zerospan::HostDevice device_{{.device_budget = Bytes{1 << 20}, .host_budget = Bytes{1 << 20}}};
  zerospan::DeviceTier tier_{device_};
  int rank_;
  zerospan::ZeroEngine<zerospan::Stage3, zerospan::MpiCommunicator, zerospan::HostDevice, zerospan::AdamW> engine_;
  std::vector<Parameter> parameters_;
};

/// A directory that one process has made, and all of them know.
class SharedDirectory {
 public:
  SharedDirectory() {
    if (process_rank() == 0) own_.emplace();
    path_ = share(MPI_COMM_WORLD, own_ ? own_->path() : std::string{})[0];
  }
  SharedDirectory(const SharedDirectory&) = delete;
  SharedDirectory& operator=(const SharedDirectory&) = delete;
  ~SharedDirectory() { MPI_Barrier(MPI_COMM_WORLD); }

  const std::string& path() const { return path_; }

 private:
  std::optional<zerospan_test::ScratchDirectory> own_;
  std::string path_;
};

/// The file system of this host, on a disk that is full once it is said to be.
class FullDisk final : public zerospan_test::ForwardedFiles<zerospan::FileSystem> {
 public:
  bool is_full = false;

  std::unique_ptr<Writer> create(const std::string& path) override {
    return std::make_unique<FullWriter>(is_full, path, ForwardedFiles::create(path));
  }
  bool can_link(int, const std::string&) override { return false; }  // everything is written

 private:
  class FullWriter final : public Writer {
   public:
    FullWriter(const bool& is_full, std::string path, std::unique_ptr<Writer> writer)
        : is_full_{is_full}, path_{std::move(path)}, writer_{std::move(writer)} {}
    void write(std::span<const std::byte> bytes) override {
      if (is_full_) zerospan::throw_io_error(ENOSPC, "write", path_, 0, bytes.size());
      writer_->write(bytes);
    }
    void sync() override { writer_->sync(); }

   private:
    const bool& is_full_;
    std::string path_;
    std::unique_ptr<Writer> writer_;
  };
};

/// The hash after each of two steps, the first of which is saved.
std::pair<std::uint64_t, std::uint64_t> save_between_steps(const std::string& directory) {
  return zerospan_test::MpiWorld{4}.run([&](zerospan::MpiCommunicator communicator) {
    SmallRank rank{communicator};
    rank.step();
    CHECK(zerospan::save_checkpoint(rank.engine(), directory).step == 1);
    const std::uint64_t saved = rank.hash();
    rank.step();
    return std::pair{saved, rank.hash()};
  })[0];
}

}  // namespace

TEST_CASE("what four processes have saved is loaded by four, who go on as if nothing had been, and by two and one") {
  const SharedDirectory directory;
  const auto expected = save_between_steps(directory.path());
  for (const int processes : {4, 2, 1}) {
    CAPTURE(processes);
    const auto found = zerospan_test::MpiWorld{processes}.run([&](zerospan::MpiCommunicator communicator) {
      SmallRank rank{communicator};
      CHECK(zerospan::find_checkpoint(rank.engine(), directory.path()) == 1);
      CHECK(zerospan::load_checkpoint(rank.engine(), directory.path()).ranks == 4);
      const std::uint64_t loaded = rank.hash();
      rank.step();
      return std::pair{loaded, rank.hash()};
    });
    for (const auto& [at_once, after_a_step] : found) {
      CHECK(at_once == expected.first);
      CHECK((after_a_step == expected.second || processes != 4));
    }
  }
}

TEST_CASE("a process whose disk is full fails the save of all of them, and the checkpoint before it stays") {
  const SharedDirectory directory;
  const auto ends = zerospan_test::MpiWorld{4}.run([&](zerospan::MpiCommunicator communicator) {
    SmallRank rank{communicator};
    FullDisk files;
    rank.step();
    zerospan::save_checkpoint(rank.engine(), directory.path(), {.files = &files});
    const std::uint64_t saved = rank.hash();
    std::vector<std::string> told;
    for (const int culprit : {0, 3}) {
      files.is_full = process_rank() == culprit;
      rank.step();
      try {
        zerospan::save_checkpoint(rank.engine(), directory.path(), {.keep = 1, .files = &files});
        told.emplace_back("nothing");
      } catch (const zerospan::CheckpointError& error) {
        told.emplace_back(error.what());
        CAPTURE(told.back());
        CHECK(told.back().starts_with("rank " + std::to_string(culprit) + ": "));
        CHECK(error.file().ends_with("/rank-" + std::to_string(culprit) + ".data"));
        CHECK(error.error_number() == ENOSPC);
      }
    }
    files.is_full = false;
    CHECK(zerospan::load_checkpoint(rank.engine(), directory.path()).step == 1);
    CHECK(rank.hash() == saved);
    rank.step();
    CHECK(zerospan::save_checkpoint(rank.engine(), directory.path(), {.files = &files}).step == 2);
    return told;
  });
  for (const std::vector<std::string>& told : ends) {
    CHECK(told == ends[0]);
    for (const std::string& text : told) CHECK(text != "nothing");
  }
}
