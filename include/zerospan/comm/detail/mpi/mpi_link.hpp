/// @file
/// A private duplicate of a communicator of the host.
#pragma once

#include <mpi.h>

#include <memory>
#include <mutex>
#include <source_location>
#include <string>
#include <string_view>

#include <zerospan/comm/detail/mpi/mpi_patience.hpp>
#include <zerospan/comm/detail/mpi/mpi_turn.hpp>
#include <zerospan/comm/detail/protocol/home_process.hpp>
#include <zerospan/comm/mpi_error.hpp>
#include <zerospan/comm/mpi_options.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// A duplicate of the host's communicator, which returns its errors. All that zerospan's ranks say to each other
/// passes through it, in messages told apart by tags.
class MpiLink {
 public:
  /// A collective of the host's communicator, which stays the host's.
  /// @throws ConfigurationError where MPI is not as it has to be; TimeoutError if not every rank takes part in time.
  MpiLink(MPI_Comm host, const MpiOptions& options) : turn_{usable_thread_level()}, options_{options} {
    require_valid(options);
    require_ranks(host);
    handle_ = duplicate(host);
    ask("MPI_Comm_set_errhandler", [&] { return MPI_Comm_set_errhandler(handle_, MPI_ERRORS_RETURN); });
    ask("MPI_Comm_rank", [&] { return MPI_Comm_rank(handle_, &rank_); });
    ask("MPI_Comm_size", [&] { return MPI_Comm_size(handle_, &size_); });
    int* largest = nullptr;
    int has_value = 0;
    ask("MPI_Comm_get_attr",
        [&] { return MPI_Comm_get_attr(handle_, MPI_TAG_UB, static_cast<void*>(&largest), &has_value); });
    if (has_value != 0) largest_tag_ = *largest;
  }
  MpiLink(const MpiLink&) = delete;
  MpiLink& operator=(const MpiLink&) = delete;

  MPI_Comm handle() const noexcept { return handle_; }
  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  int largest_tag() const noexcept { return largest_tag_; }
  const MpiOptions& options() const noexcept { return options_; }
  MpiTurn& turn() noexcept { return turn_; }

  /// Calls an MPI function when it is this thread's turn.
  /// @throws MpiError if the function does not succeed; RankFailedError in a forked process, which has no MPI.
  template <class Function>
  void ask(std::string_view name, Function function) {
    home_.require(Rank{rank_});
    const std::lock_guard turn{turn_};
    check_mpi(function(), name);
  }

  /// Frees the duplicate: no message is under way or unread. Without it the duplicate stays until MPI is finalized,
  /// so that no later communicator can receive what was meant for this one.
  void free() noexcept {
    if (home_.was_left()) return;
    const std::lock_guard turn{turn_};
    MPI_Comm_free(&handle_);
  }

  static bool is_finalized() noexcept {
    int yes = 0;
    MPI_Finalized(&yes);
    return yes != 0;
  }

 private:
  static void require_ranks(MPI_Comm host) {
    int connects_two_groups = 0;
    if (host != MPI_COMM_NULL) check_mpi(MPI_Comm_test_inter(host, &connects_two_groups), "MPI_Comm_test_inter");
    if (host == MPI_COMM_NULL || connects_two_groups != 0) {
      throw_configuration_error("an MpiCommunicator is made from one group of ranks: " +
                                std::string{host == MPI_COMM_NULL ? "MPI_COMM_NULL" : "an intercommunicator"} +
                                " is not one");
    }
  }

  MPI_Comm duplicate(MPI_Comm host) {
    auto handle = std::make_unique<MPI_Comm>(MPI_COMM_NULL);
    MPI_Request request = MPI_REQUEST_NULL;
    ask("MPI_Comm_idup", [&] { return MPI_Comm_idup(host, handle.get(), &request); });
    const auto deadline = moment_after(options_.timeout);
    MpiPatience patience{MpiAwaited::ranks};
    for (int is_done = 0; is_done == 0; patience.pause()) {
      if (MpiPatience::Clock::now() > deadline) {
        static_cast<void>(handle.release());  // MPI may write to it yet
        throw TimeoutError{"not every rank of the host's communicator made its MpiCommunicator within " +
                               std::to_string(options_.timeout.count()) + " ms",
                           std::source_location::current()};
      }
      ask("MPI_Test", [&] { return MPI_Test(&request, &is_done, MPI_STATUS_IGNORE); });
    }
    return *handle;
  }

  HomeProcess home_;
  MpiTurn turn_;
  MpiOptions options_;
  MPI_Comm handle_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  int largest_tag_ = 32767;  // what the standard promises
};

}  // namespace zerospan::inline v0::detail
