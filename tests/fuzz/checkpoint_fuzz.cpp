// The readers of what a checkpoint says of itself, given any bytes: as a manifest; as a manifest whose checksum fits,
// which random bytes never are; as the part of a rank; and as a checkpoint's name. What is read without an error is
// right: written and read again, it says the same.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <zerospan/checkpoint/detail/checkpoint_directory.hpp>
#include <zerospan/checkpoint/detail/manifest.hpp>
#include <zerospan/core/error.hpp>

#include "fuzzing.hpp"

namespace {

using zerospan_test::AllocationLimit;
using zerospan_test::demand;

const std::string file = "fuzz";

/// @param read Makes a value of a text. @param write Makes a text of a value.
template <class Read, class Write>
void read_and_write(std::string_view text, Read read, Write write) {
  try {
    const AllocationLimit limit{text.size()};
    const auto value = read(text, file);
    const std::string written = write(value, file);
    demand(write(read(written, file), file) == written, "what was read is written, and read again");
  } catch (const zerospan::CheckpointError&) {
  }
}

void read_manifest(std::string_view text) {
  read_and_write(text, zerospan::detail::parse_manifest, zerospan::detail::manifest_text);
}

/// The same JSON with the checksum that it would have.
std::string with_checksum(std::string_view text) {
  try {
    nlohmann::json json = zerospan::detail::JsonReader{file}.parse(text);
    json.erase("checksum");
    json["checksum"] = zerospan::detail::in_hexadecimal(zerospan::detail::checksum(std::string_view{json.dump()}));
    return json.dump();
  } catch (const zerospan::CheckpointError&) {
    return {};
  }
}

void read_name(std::string_view text) {
  using zerospan::detail::CheckpointName;
  const auto name = CheckpointName::parse(text);
  if (!name) return;
  demand(name->step >= 0 && name->copy >= 0, "a step is counted");
  demand(CheckpointName::parse(name->text()) == name, "a name is that of its text");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text{reinterpret_cast<const char*>(data), size};
  read_manifest(text);
  read_manifest(with_checksum(text));
  read_and_write(text, zerospan::detail::parse_part, zerospan::detail::part_text);
  read_name(text);
  return 0;
}
