/// @file
/// Gathers parameters that are partitioned over all ranks, and parameters that have an owner each, on hosts whose links
/// are slow (links.sh makes them), and compares bytes and times with what they should be.
/// `links serve`: a store of parameters, for all hosts.
/// `links memory <Mbit/s>`: every host's parameters are in a store behind a link of its own; the network is fast.
/// `links network <Mbit/s>`: parameters are on the hosts, the network between them is slow.
#include <arpa/inet.h>
#include <mpi.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include <zerospan/comm/communicator.hpp>
#include <zerospan/comm/run_mpi_rank.hpp>
#include <zerospan/core/stream.hpp>

namespace {

using zerospan::calling_thread;
using zerospan::Collective;
using zerospan::GatherPart;
using zerospan::MpiCommunicator;
using zerospan::Rank;

constexpr int parameters = 4;
constexpr std::size_t parameter_bytes = std::size_t{2} << 20;
constexpr std::size_t shortest_data = 4096;  // what is shorter is words of the rendezvous
constexpr std::uint16_t store_port = 7078;

std::size_t data_sent = 0;  // by this process through MPI

std::byte content(std::uint64_t parameter, std::uint64_t i) {
  return static_cast<std::byte>((i * 0x9e3779b97f4a7c15U + parameter) >> 56);
}

/// @return What a function of the system returned, if it is no error.
template <class Result>
Result checked(Result result, const char* what) {
  if (result < 0) throw std::system_error{errno, std::generic_category(), what};
  return result;
}

void transfer(ssize_t (*move)(int, std::byte*, std::size_t), int socket, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t moved = checked(move(socket, bytes.data(), bytes.size()), "a connection to the store");
    if (moved == 0) throw std::runtime_error{"a connection to the store has ended"};
    bytes = bytes.subspan(static_cast<std::size_t>(moved));
  }
}
void receive(int socket, std::span<std::byte> bytes) {
  transfer([](int s, std::byte* to, std::size_t n) { return ::read(s, to, n); }, socket, bytes);
}
void send(int socket, std::span<std::byte> bytes) {
  transfer([](int s, std::byte* from, std::size_t n) { return ::send(s, from, n, MSG_NOSIGNAL); }, socket, bytes);
}

struct Request {
  std::uint64_t parameter;
  std::uint64_t first;
  std::uint64_t bytes;
};

sockaddr_in address(const char* ip) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(store_port);
  ::inet_pton(AF_INET, ip, &address.sin_addr);
  return address;
}

void answer(int socket) {
  try {
    for (;;) {
      Request wanted{};
      receive(socket, std::as_writable_bytes(std::span{&wanted, 1}));
      std::vector<std::byte> bytes(wanted.bytes);
      for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = content(wanted.parameter, wanted.first + i);
      send(socket, bytes);
    }
  } catch (const std::exception&) {  // a rank has ended
    ::close(socket);
  }
}

[[noreturn]] void serve() {
  const int listener = checked(::socket(AF_INET, SOCK_STREAM, 0), "socket");
  const sockaddr_in anywhere = address("0.0.0.0");
  checked(::bind(listener, reinterpret_cast<const sockaddr*>(&anywhere), sizeof anywhere), "bind");
  checked(::listen(listener, 16), "listen");
  for (;;) std::thread{answer, checked(::accept(listener, nullptr, nullptr), "accept")}.detach();
}

/// A rank's connection to its store, through the host's own link.
class Store {
 public:
  explicit Store(Rank rank) : socket_{checked(::socket(AF_INET, SOCK_STREAM, 0), "socket")} {
    const sockaddr_in store = address(("10.78." + std::to_string(rank.value) + ".2").c_str());
    checked(::connect(socket_, reinterpret_cast<const sockaddr*>(&store), sizeof store), "connect to the store");
  }
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;
  ~Store() { ::close(socket_); }

  void read(int parameter, std::size_t first, std::span<std::byte> to) {
    Request wanted{static_cast<std::uint64_t>(parameter), first, to.size()};
    send(socket_, std::as_writable_bytes(std::span{&wanted, 1}));
    receive(socket_, to);
    bytes_read_ += to.size();
  }
  std::size_t bytes_read() const { return bytes_read_; }

 private:
  int socket_;
  std::size_t bytes_read_ = 0;
};

/// Parameters that are already on the hosts.
struct Resident {
  void read(int parameter, std::size_t first, std::span<std::byte> to) const {
    for (std::size_t i = 0; i < to.size(); ++i) to[i] = content(static_cast<std::uint64_t>(parameter), first + i);
  }
};

enum class Wire : std::uint8_t { received = 0, sent = 8 };

/// What an interface of this host has moved, headers included, as the kernel counts.
std::size_t wire_bytes(const std::string& interface, Wire way) {
  std::ifstream table{"/proc/net/dev"};
  for (std::string line; std::getline(table, line);) {
    const std::size_t name_end = line.find(interface + ":");
    if (name_end == std::string::npos) continue;
    std::istringstream numbers{line.substr(name_end + interface.size() + 1)};
    std::size_t number = 0;
    for (int column = 0; column <= static_cast<int>(way); ++column) numbers >> number;
    return number;
  }
  throw std::runtime_error{"this host has no interface " + interface};
}

bool is_as_stored(std::span<const std::byte> buffer, int parameter) {
  for (std::size_t i = 0; i < buffer.size(); ++i) {
    if (buffer[i] != content(static_cast<std::uint64_t>(parameter), i)) return false;
  }
  return true;
}

void require(bool is_so, const std::string& what) {
  if (!is_so) throw std::runtime_error{"not so: " + what};
}

/// Every rank fetches its slice of a parameter, and gets the others' from them.
template <class Source>
void gather_partitioned(MpiCommunicator& communicator, Source& source, int parameter, std::span<std::byte> buffer) {
  const std::size_t slice = buffer.size() / static_cast<std::size_t>(communicator.size());
  const std::size_t first = static_cast<std::size_t>(communicator.rank().value) * slice;
  source.read(parameter, first, buffer.subspan(first, slice));
  const GatherPart part{buffer.data(), slice};
  communicator.all_gather(Collective{calling_thread, "parameter"}, std::span{&part, 1});
}

/// The owner fetches a parameter, and everybody gets it from there.
template <class Source>
void gather_owned(MpiCommunicator& communicator, Source& source, int parameter, std::span<std::byte> buffer) {
  const Rank owner{parameter % communicator.size()};
  if (communicator.rank() == owner) source.read(parameter, 0, buffer);
  communicator.broadcast(Collective{calling_thread, "parameter"}, buffer, owner);
}

/// Gathers all parameters, one after the other. @return Seconds, between two barriers.
template <class Source, class Gather>
double time_of(MpiCommunicator& communicator, Source& source, Gather gather) {
  std::vector<std::vector<std::byte>> buffers(parameters, std::vector<std::byte>(parameter_bytes));
  communicator.barrier({calling_thread, "begin"});
  const auto begin = std::chrono::steady_clock::now();
  for (int p = 0; p < parameters; ++p) gather(communicator, source, p, std::span{buffers[static_cast<std::size_t>(p)]});
  communicator.barrier({calling_thread, "end"});
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  for (int p = 0; p < parameters; ++p) {
    require(is_as_stored(buffers[static_cast<std::size_t>(p)], p), "parameter " + std::to_string(p) + " is as stored");
  }
  return seconds.count();
}

/// How many parameters a rank owns.
std::size_t owned(const MpiCommunicator& communicator) {
  std::size_t count = 0;
  for (int p = 0; p < parameters; ++p) count += p % communicator.size() == communicator.rank().value ? 1 : 0;
  return count;
}

struct Seconds {
  double partitioned;
  double owned;
};

void print(const MpiCommunicator& communicator, const char* what, const Seconds& seconds) {
  if (communicator.rank() != Rank{0}) return;
  std::printf("%-10s partitioned %6.3f s, owned %6.3f s, ratio %5.2f\n", what, seconds.partitioned, seconds.owned,
              seconds.owned / seconds.partitioned);
  std::fflush(stdout);
}

/// A link's headers take their share of what it counts; little else is on it.
void require_on_wire(std::size_t counted, std::size_t payload) {
  require(counted >= payload && counted <= payload + payload / 8 + (std::size_t{64} << 10),
          std::to_string(payload) + " bytes are " + std::to_string(counted) + " on the wire");
}

void require_ratio(const Seconds& measured, const Seconds& predicted) {
  const double ratio = measured.owned / measured.partitioned / (predicted.owned / predicted.partitioned);
  require(ratio > 0.7 && ratio < 1.3, "the measured ratio is nearly the predicted one");
}

/// Links to memory: all of them bring a parameter that is partitioned, one of them a parameter that has an owner.
void compare_memory(MpiCommunicator& communicator, double bytes_a_second) {
  constexpr std::size_t all_bytes = parameters * parameter_bytes;
  const auto ranks = static_cast<std::size_t>(communicator.size());
  const Seconds predicted{all_bytes / bytes_a_second / static_cast<double>(ranks), all_bytes / bytes_a_second};
  print(communicator, "predicted", predicted);

  Store store{communicator.rank()};
  const std::size_t before = wire_bytes("disk", Wire::received);
  Seconds measured{};
  measured.partitioned = time_of(communicator, store, gather_partitioned<Store>);
  const std::size_t partitioned_bytes = store.bytes_read();
  require(partitioned_bytes == all_bytes / ranks, "a link brings its share of every parameter");
  measured.owned = time_of(communicator, store, gather_owned<Store>);
  require(store.bytes_read() - partitioned_bytes == owned(communicator) * parameter_bytes,
          "a link brings all of its rank's own parameters");
  require_on_wire(wire_bytes("disk", Wire::received) - before, store.bytes_read());
  print(communicator, "measured", measured);
  require_ratio(measured, predicted);
}

/// Links between hosts: all ranks send their slices at once, or an owner sends slices that the others pass on, and then
/// its own slice to each.
void compare_network(MpiCommunicator& communicator, double bytes_a_second) {
  constexpr std::size_t all_bytes = parameters * parameter_bytes;
  const auto ranks = static_cast<std::size_t>(communicator.size());
  const std::size_t slice = parameter_bytes / ranks;
  const double of_slices = static_cast<double>(all_bytes / ranks * (ranks - 1)) / bytes_a_second;
  const Seconds predicted{of_slices, 2 * of_slices};
  if (ranks > 1) print(communicator, "predicted", predicted);

  const Resident source;
  const std::size_t wire_before = wire_bytes("fabric", Wire::sent);
  const std::size_t before = data_sent;
  Seconds measured{};
  measured.partitioned = time_of(communicator, source, gather_partitioned<const Resident>);
  const std::size_t partitioned_bytes = data_sent - before;
  require(partitioned_bytes == parameters * (ranks - 1) * slice, "a rank sends its slices to all others");
  measured.owned = time_of(communicator, source, gather_owned<const Resident>);
  const std::size_t own = owned(communicator);
  const std::size_t passed_on = ranks > 1 ? (parameters - own) * (ranks - 2) * slice : 0;
  require(data_sent - before - partitioned_bytes == own * 2 * (ranks - 1) * slice + passed_on,
          "an owner sends two slices to each, any other passes on one");
  require_on_wire(wire_bytes("fabric", Wire::sent) - wire_before, data_sent - before);
  if (ranks == 1) return;
  print(communicator, "measured", measured);
  require_ratio(measured, predicted);
}

void run(MpiCommunicator& communicator, std::string_view where, double megabits) {
  const double bytes_a_second = megabits * 1e6 / 8;
  std::vector<std::byte> all(2 * shortest_data * static_cast<std::size_t>(communicator.size()));
  const GatherPart part{all.data(), 2 * shortest_data};
  communicator.all_gather({calling_thread, "connections"}, std::span{&part, 1});
  if (communicator.rank() == Rank{0}) {
    std::printf("%d hosts, %d MiB, links of %g Mbit/s to %s\n", communicator.size(),
                static_cast<int>(parameters * parameter_bytes >> 20), megabits,
                where == "memory" ? "each host's own memory" : "each other");
  }
  if (where == "memory") compare_memory(communicator, bytes_a_second);
  if (where == "network") compare_network(communicator, bytes_a_second);
}

}  // namespace

/// Counts what the library gives to MPI.
extern "C" int MPI_Isend(const void* from, int count, MPI_Datatype type, int to, int tag, MPI_Comm communicator,
                         MPI_Request* request) {
  const auto bytes = static_cast<std::size_t>(count);
  if (bytes >= shortest_data) data_sent += bytes;
  return PMPI_Isend(from, count, type, to, tag, communicator, request);
}

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view{argv[1]} == "serve") serve();
  if (argc != 3) return EXIT_FAILURE;
  int provided = MPI_THREAD_SINGLE;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
  zerospan::run_mpi_rank(MPI_COMM_WORLD, [&](MpiCommunicator communicator) {
    run(communicator, argv[1], std::strtod(argv[2], nullptr));
    return 0;
  });
  MPI_Finalize();
  return EXIT_SUCCESS;
}
