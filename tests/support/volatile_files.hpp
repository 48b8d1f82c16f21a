/// @file
/// VolatileFiles: a file system in memory that refuses operations, or loses what was not synced, when it is told to.
#pragma once

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/checkpoint/checkpoint_files.hpp>
#include <zerospan/core/error.hpp>

namespace zerospan_test {

/// Files and directories have what everybody sees now, and what would be left after a loss of power. Operations are
/// counted. May be used by several threads at once.
class VolatileFiles final : public zerospan::CheckpointFiles {
 public:
  /// From the operation of that number on (from 0) every one fails: the power is off. One that writes does half of it.
  void lose_power_at(std::size_t operation) { set(operation, Fault::power); }

  /// The operation of that number fails alone.
  void fail_at(std::size_t operation, int error_number) { set(operation, Fault::once, error_number); }

  /// So does every one that needs space, from that one on, until `restart` or another fault.
  void fill_up_at(std::size_t operation) { set(operation, Fault::full, ENOSPC); }

  /// No fault any more.
  void recover() { set(0, Fault::none); }

  /// Whether files of the system may be linked: they are taken to be on this file system.
  void allow_links(bool are_allowed) {
    const std::scoped_lock lock{mutex_};
    links_ = are_allowed;
  }

  /// Counts from 0 again. @return how many operations there were.
  std::size_t count() {
    const std::scoped_lock lock{mutex_};
    return std::exchange(operations_, 0);
  }

  /// The power is back. @param survivors Seeds which of what was not synced is left all the same; none: nothing.
  void restart(std::optional<std::uint64_t> survivors = std::nullopt) {
    const std::scoped_lock lock{mutex_};
    std::optional<std::mt19937_64> random;
    if (survivors) random.emplace(*survivors);
    settle(*root_, random);
    locks_.clear();
    fault_ = Fault::none;
    operations_ = 0;
  }

  std::unique_ptr<Writer> create(const std::string& path) override {
    const std::scoped_lock lock{mutex_};
    operate("making a file", path, Needs::space);
    auto& [directory, name] = place_of(path);
    auto& entry = directory->entries[name];
    if (!entry) entry = std::make_shared<Node>();
    entry->bytes.clear();
    return std::make_unique<MemoryWriter>(*this, path, entry);
  }

  std::unique_ptr<Reader> open(const std::string& path) override {
    const std::scoped_lock lock{mutex_};
    operate("opening a file", path, Needs::nothing);
    const std::shared_ptr<Node> node = find(path);
    if (!node) return nullptr;
    return std::make_unique<MemoryReader>(*this, path, node);
  }

  void make_directory(const std::string& path) override {
    const std::scoped_lock lock{mutex_};
    operate("making a directory", path, Needs::space);
    auto& [directory, name] = place_of(path);
    auto& entry = directory->entries[name];
    if (!entry) entry = std::make_shared<Node>();
    entry->is_directory = true;
  }

  bool can_link(int, const std::string&) override {
    const std::scoped_lock lock{mutex_};
    return links_;
  }

  /// The file has what it has now: who has had it linked does not write to it.
  bool link(int descriptor, const std::string& path) override {
    const std::unique_ptr<Reader> linked =
        zerospan::FileSystem{}.open("/proc/self/fd/" + std::to_string(descriptor));
    std::vector<std::byte> bytes(linked->size());
    linked->read(0, bytes);
    const std::scoped_lock lock{mutex_};
    operate("linking a file", path, Needs::space);
    auto& [directory, name] = place_of(path);
    auto& entry = directory->entries[name];
    if (entry) zerospan::throw_io_error(EEXIST, "linking a file", path, 0, 0);
    entry = std::make_shared<Node>();
    entry->bytes = std::move(bytes);
    return true;
  }

  void sync_file(const std::string& path) override {
    const std::scoped_lock lock{mutex_};
    operate("fsync", path, Needs::space);
    const std::shared_ptr<Node> node = find(path);
    if (!node) zerospan::throw_io_error(ENOENT, "opening a file", path, 0, 0);
    node->durable_bytes = node->bytes;
  }

  std::vector<std::string> list(const std::string& path) override {
    const std::scoped_lock lock{mutex_};
    operate("listing a directory", path, Needs::nothing);
    std::vector<std::string> names;
    if (const std::shared_ptr<Node> node = find(path)) {
      for (const auto& [name, entry] : node->entries) names.push_back(name);
    }
    return names;
  }

  void rename(const std::string& from, const std::string& to) override {
    const std::scoped_lock lock{mutex_};
    operate("renaming", from, Needs::space);
    const std::shared_ptr<Node> node = find(from);
    if (!node) zerospan::throw_io_error(ENOENT, "renaming", from, 0, 0);
    place_of(from).first->entries.erase(place_of(from).second);
    auto& [directory, name] = place_of(to);
    directory->entries[name] = node;
  }

  void sync_directory(const std::string& path) override {
    const std::scoped_lock lock{mutex_};
    operate("fsync", path, Needs::nothing);
    const std::shared_ptr<Node> node = find(path);
    if (!node) zerospan::throw_io_error(ENOENT, "opening a directory", path, 0, 0);
    node->durable_entries = node->entries;
  }

  void remove(const std::string& path) override {
    const std::scoped_lock lock{mutex_};
    operate("removing a file", path, Needs::nothing);
    const std::shared_ptr<Node> node = find(path);
    if (!node) zerospan::throw_io_error(ENOENT, "removing a file", path, 0, 0);
    if (!node->entries.empty()) zerospan::throw_io_error(ENOTEMPTY, "removing a file", path, 0, 0);
    auto& [directory, name] = place_of(path);
    directory->entries.erase(name);
  }

  std::unique_ptr<Lock> lock(const std::string& path) override {
    const std::scoped_lock lock{mutex_};
    operate("locking", path, Needs::space);
    if (!locks_.insert(path).second) return nullptr;
    return std::make_unique<MemoryLock>(*this, path);
  }

  /// The bytes of a file, to be damaged. @throws IoError if there is none.
  std::vector<std::byte>& bytes_of(const std::string& path) {
    const std::scoped_lock lock{mutex_};
    const std::shared_ptr<Node> node = find(path);
    if (!node) zerospan::throw_io_error(ENOENT, "opening a file", path, 0, 0);
    return node->bytes;
  }

 private:
  enum class Fault : std::uint8_t { none, once, full, power };
  enum class Needs : std::uint8_t { nothing, space };

  struct Node {
    bool is_directory = false;
    std::vector<std::byte> bytes{};
    std::vector<std::byte> durable_bytes{};
    std::map<std::string, std::shared_ptr<Node>> entries{};
    std::map<std::string, std::shared_ptr<Node>> durable_entries{};
  };

  class MemoryWriter final : public Writer {
   public:
    MemoryWriter(VolatileFiles& files, std::string path, std::shared_ptr<Node> node)
        : files_{files}, path_{std::move(path)}, node_{std::move(node)} {}

    void write(std::span<const std::byte> bytes) override {
      const std::scoped_lock lock{files_.mutex_};
      const bool fails = files_.fails(Needs::space);
      const std::span<const std::byte> written = bytes.first(fails ? bytes.size() / 2 : bytes.size());
      node_->bytes.insert(node_->bytes.end(), written.begin(), written.end());
      if (fails) files_.refuse("write", path_);
    }
    void sync() override {
      const std::scoped_lock lock{files_.mutex_};
      files_.operate("fsync", path_, Needs::space);
      node_->durable_bytes = node_->bytes;
    }

   private:
    VolatileFiles& files_;
    std::string path_;
    std::shared_ptr<Node> node_;
  };

  class MemoryReader final : public Reader {
   public:
    MemoryReader(VolatileFiles& files, std::string path, std::shared_ptr<Node> node)
        : files_{files}, path_{std::move(path)}, node_{std::move(node)} {}

    std::uint64_t size() const override {
      const std::scoped_lock lock{files_.mutex_};
      return node_->bytes.size();
    }
    void read(std::uint64_t offset, std::span<std::byte> bytes) override {
      const std::scoped_lock lock{files_.mutex_};
      files_.operate("read", path_, Needs::nothing);
      if (offset > node_->bytes.size() || bytes.size() > node_->bytes.size() - offset) {
        zerospan::throw_io_error(EIO, "read", path_, offset, bytes.size());
      }
      if (!bytes.empty()) std::memcpy(bytes.data(), node_->bytes.data() + offset, bytes.size());
    }

   private:
    VolatileFiles& files_;
    std::string path_;
    std::shared_ptr<Node> node_;
  };

  class MemoryLock final : public Lock {
   public:
    MemoryLock(VolatileFiles& files, std::string path) : files_{files}, path_{std::move(path)} {}
    ~MemoryLock() override {
      const std::scoped_lock lock{files_.mutex_};
      files_.locks_.erase(path_);
    }

   private:
    VolatileFiles& files_;
    std::string path_;
  };

  void set(std::size_t operation, Fault fault, int error_number = EIO) {
    const std::scoped_lock lock{mutex_};
    fault_ = fault;
    failing_ = operation;
    error_number_ = error_number;
    operations_ = 0;
  }

  /// Counts an operation. @return Whether it fails.
  bool fails(Needs needs) {
    const std::size_t operation = operations_++;
    switch (fault_) {
      case Fault::none:
        return false;
      case Fault::once:
        return operation == failing_;
      case Fault::full:
        return operation >= failing_ && needs == Needs::space;
      case Fault::power:
        break;
    }
    return operation >= failing_;
  }
  [[noreturn]] void refuse(const char* what, const std::string& path) const {
    zerospan::throw_io_error(error_number_, what, path, 0, 0);
  }
  void operate(const char* what, const std::string& path, Needs needs) {
    if (fails(needs)) refuse(what, path);
  }

  /// @return nullptr if there is nothing.
  std::shared_ptr<Node> find(const std::string& path) const {
    std::shared_ptr<Node> node = root_;
    for (std::size_t begin = 0; node && begin < path.size();) {
      const std::size_t end = std::min(path.find('/', begin), path.size());
      if (end > begin) {
        const auto entry = node->entries.find(path.substr(begin, end - begin));
        node = entry == node->entries.end() ? nullptr : entry->second;
      }
      begin = end + 1;
    }
    return node;
  }

  /// The directory that a path is in, and the name there. @throws IoError
  std::pair<std::shared_ptr<Node>, std::string>& place_of(const std::string& path) {
    const std::size_t slash = path.find_last_of('/');
    const std::shared_ptr<Node> directory = slash == std::string::npos ? root_ : find(path.substr(0, slash));
    if (!directory) zerospan::throw_io_error(ENOENT, "a path", path, 0, 0);
    place_ = {directory, path.substr(slash == std::string::npos ? 0 : slash + 1)};
    return place_;
  }

  static void settle(Node& node, std::optional<std::mt19937_64>& random) {
    const auto survives = [&] { return random && (*random)() % 2 == 0; };
    if (survives()) node.durable_bytes = node.bytes;
    node.bytes = node.durable_bytes;
    std::set<std::string> names;
    for (const auto& [name, entry] : node.entries) names.insert(name);
    for (const auto& [name, entry] : node.durable_entries) names.insert(name);
    for (const std::string& name : names) {
      if (!survives()) continue;
      const auto now = node.entries.find(name);
      if (now == node.entries.end()) {
        node.durable_entries.erase(name);
      } else {
        node.durable_entries[name] = now->second;
      }
    }
    node.entries = node.durable_entries;
    for (const auto& [name, entry] : node.entries) settle(*entry, random);
  }

  mutable std::mutex mutex_;
  std::shared_ptr<Node> root_ = std::make_shared<Node>();
  std::pair<std::shared_ptr<Node>, std::string> place_;
  std::set<std::string> locks_;
  bool links_ = false;
  std::size_t operations_ = 0;
  Fault fault_ = Fault::none;
  std::size_t failing_ = 0;
  int error_number_ = EIO;
};

}  // namespace zerospan_test
