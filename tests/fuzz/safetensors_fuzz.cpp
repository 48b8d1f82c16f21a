// The readers of the safetensors format, given any bytes: as a file; as a file whose header is as long as its text
// seems to be, which random bytes hardly ever are; and as an index. What is read without an error is right: its tensors
// are read to the last element, and declared to a writer they come to lie where they can be read again.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <zerospan/core/error.hpp>
#include <zerospan/interchange/detail/safetensors_index.hpp>
#include <zerospan/interchange/detail/safetensors_layout.hpp>
#include <zerospan/interchange/safetensors_file.hpp>

#include "fuzzing.hpp"

namespace {

using zerospan_test::AllocationLimit;
using zerospan_test::demand;

/// The bytes as a file, which is there as long as the process runs.
std::string file_of(std::string_view bytes) {
  static const int descriptor = ::memfd_create("fuzz", MFD_CLOEXEC);
  static const std::string path = "/proc/self/fd/" + std::to_string(descriptor);
  if (::ftruncate(descriptor, 0) != 0 ||
      ::pwrite(descriptor, bytes.data(), bytes.size(), 0) != static_cast<::ssize_t>(bytes.size())) {
    std::abort();
  }
  return path;
}

void read_everything(const zerospan::SafetensorsFile& file, std::size_t bytes) {
  std::uint64_t sum = 0;
  std::vector<float> floats;
  std::vector<std::byte> raw;
  for (const zerospan::StoredSafetensorsTensor& tensor : file.tensors()) {
    demand(tensor.offset <= bytes && tensor.bytes <= bytes - tensor.offset, "a tensor is in its file");
    demand(file.find(tensor.name) == &tensor, "a tensor is found by its name");
    sum += tensor.bytes;
    raw.resize(tensor.bytes);
    file.read_bytes(tensor.name, 0, raw);
    if (!zerospan::element_type(tensor.type) && tensor.type != zerospan::SafetensorsType::float64) continue;
    floats.resize(tensor.elements);
    file.read(tensor.name, 0, floats);
  }
  demand(sum <= bytes, "tensors do not overlap");
}

void write_again(const zerospan::SafetensorsFile& file) {
  const std::vector<zerospan::SafetensorsTensor> tensors(file.tensors().begin(), file.tensors().end());
  const auto layout = zerospan::detail::SafetensorsLayoutMaker::make("x.safetensors", tensors, file.metadata(),
                                                                     zerospan::Bytes{SIZE_MAX});
  demand(layout.files.size() == 1, "there is one file");
  const auto& planned = layout.files.front();
  const std::string_view header = std::string_view{planned.beginning}.substr(zerospan::detail::safetensors_prefix);
  const auto again =
      zerospan::detail::read_safetensors_header(header, planned.bytes - planned.beginning.size(), "again");
  demand(again.metadata == file.metadata(), "metadata are kept");
  demand(again.tensors.size() == tensors.size(), "tensors are kept");
  for (const zerospan::SafetensorsTensor& tensor : tensors) {
    const auto* const found = again.find(tensor.name);
    demand(found != nullptr && static_cast<const zerospan::SafetensorsTensor&>(*found) == tensor, "a tensor is kept");
  }
}

void read_file(std::string_view bytes) {
  const std::string path = file_of(bytes);
  try {
    const AllocationLimit limit{bytes.size()};
    const zerospan::SafetensorsFile file{path};
    read_everything(file, bytes.size());
    write_again(file);
  } catch (const zerospan::FormatError&) {
  }
}

void read_index(std::string_view bytes) {
  try {
    const AllocationLimit limit{bytes.size()};
    for (const auto& [name, file] : zerospan::detail::SafetensorsIndexReader{"index"}.read(bytes)) {
      demand(!file.empty() && file.find('/') == std::string::npos && file != "..", "a file lies beside the index");
    }
  } catch (const zerospan::FormatError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  read_file(bytes);
  read_index(bytes);
  constexpr std::size_t prefix = zerospan::detail::safetensors_prefix;
  if (const auto brace = bytes.rfind('}'); brace != std::string_view::npos && brace >= prefix) {
    std::string fitting{bytes};
    const std::uint64_t length = brace + 1 - prefix;
    std::memcpy(fitting.data(), &length, sizeof length);
    read_file(fitting);
  }
  return 0;
}
