/// @file
/// GatedFiles: a file system in memory that keeps a save waiting.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>

#include "forwarded_files.hpp"
#include "volatile_files.hpp"

namespace zerospan_test {

/// A file system in memory whose data files are not written before the gate is opened.
class GatedFiles final : public ForwardedFiles<VolatileFiles> {
 public:
  void open_gate() {
    {
      const std::scoped_lock lock{mutex_};
      is_open_ = true;
    }
    changed_.notify_all();
  }

  std::unique_ptr<Writer> create(const std::string& path) override {
    auto writer = ForwardedFiles::create(path);
    if (!path.ends_with(".data")) return writer;
    return std::make_unique<GatedWriter>(*this, std::move(writer));
  }

 private:
  class GatedWriter final : public Writer {
   public:
    GatedWriter(GatedFiles& files, std::unique_ptr<Writer> writer) : files_{files}, writer_{std::move(writer)} {}

    void write(std::span<const std::byte> bytes) override {
      {
        std::unique_lock lock{files_.mutex_};
        files_.changed_.wait(lock, [&] { return files_.is_open_; });
      }
      writer_->write(bytes);
    }
    void sync() override { writer_->sync(); }

   private:
    GatedFiles& files_;
    std::unique_ptr<Writer> writer_;
  };

  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_open_ = false;
};

}  // namespace zerospan_test
