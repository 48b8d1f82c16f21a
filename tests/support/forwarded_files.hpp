/// @file
/// ForwardedFiles: the file system of somebody else, of which a test changes some operations.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <zerospan/checkpoint/checkpoint_files.hpp>

namespace zerospan_test {

/// Does what `Files` do.
template <class Files>
class ForwardedFiles : public zerospan::CheckpointFiles {
 public:
  std::unique_ptr<Writer> create(const std::string& path) override { return files_.create(path); }
  std::unique_ptr<Reader> open(const std::string& path) override { return files_.open(path); }
  void make_directory(const std::string& path) override { files_.make_directory(path); }
  bool can_link(int descriptor, const std::string& directory) override {
    return files_.can_link(descriptor, directory);
  }
  bool link(int descriptor, const std::string& path) override { return files_.link(descriptor, path); }
  void sync_file(const std::string& path) override { files_.sync_file(path); }
  std::vector<std::string> list(const std::string& path) override { return files_.list(path); }
  void rename(const std::string& from, const std::string& to) override { files_.rename(from, to); }
  void sync_directory(const std::string& path) override { files_.sync_directory(path); }
  void remove(const std::string& path) override { files_.remove(path); }
  std::unique_ptr<Lock> lock(const std::string& path) override { return files_.lock(path); }

  Files& files() { return files_; }

 private:
  Files files_;
};

}  // namespace zerospan_test
