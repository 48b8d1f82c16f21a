#include <doctest/doctest.h>

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <zerospan/checkpoint/detail/manifest.hpp>
#include <zerospan/core/error.hpp>

namespace {

using zerospan::CheckpointError;
using zerospan::detail::parse_manifest;
using zerospan::detail::parse_part;

TEST_CASE("text that is nested deeper than a checkpoint's is refused, and takes no stack") {
  const std::string nested = std::string(300'000, '[') + std::string(300'000, ']');
  const char* const words = "file: its JSON is nested deeper than 16 levels";
  const std::string manifest =
      R"({"format": "zerospan checkpoint", "version": 1, "checksum": "0123456789abcdef", "more": )" + nested + "}";
  CHECK_THROWS_WITH_AS(parse_manifest(manifest, "file"), words, CheckpointError);
  CHECK_THROWS_WITH_AS(parse_part(R"({"bytes": 0, "host": )" + nested + "}", "file"), words, CheckpointError);
}

TEST_CASE("an optimizer's settings that have no names are refused, though the checksum fits") {
  zerospan::detail::Manifest manifest{};
  manifest.settings = {{"beta1", 0.5}};
  manifest.parts = {{1, 2}};
  nlohmann::json json = nlohmann::json::parse(zerospan::detail::manifest_text(manifest, "file"));
  const auto text_with_checksum = [&] {
    json.erase("checksum");
    json["checksum"] = zerospan::detail::in_hexadecimal(zerospan::detail::checksum(std::string_view{json.dump()}));
    return json.dump();
  };
  CHECK(parse_manifest(text_with_checksum(), "file").settings == manifest.settings);
  json["optimizer"]["settings"] = nlohmann::json::array({0.5});
  CHECK_THROWS_WITH_AS(parse_manifest(text_with_checksum(), "file"), "file: \"settings\" is no object",
                       CheckpointError);
}

TEST_CASE("arrays of states are of a form that is known; of values, where a checkpoint does not say") {
  using zerospan::StateForm;
  zerospan::detail::Manifest manifest{};
  manifest.states = {{"a", zerospan::ElementType::float32, StateForm::scales},
                     {"b", zerospan::ElementType::bfloat16, StateForm::codes}};
  manifest.parts = {{1, 2}};
  nlohmann::json json = nlohmann::json::parse(zerospan::detail::manifest_text(manifest, "file"));
  const auto form_of_first = [&] {
    json.erase("checksum");
    json["checksum"] = zerospan::detail::in_hexadecimal(zerospan::detail::checksum(std::string_view{json.dump()}));
    return parse_manifest(json.dump(), "file").states.at(0).form;
  };
  CHECK(form_of_first() == StateForm::scales);
  json["optimizer"]["states"][0]["form"] = "codes";
  CHECK(form_of_first() == StateForm::codes);
  json["optimizer"]["states"][0].erase("form");
  CHECK(form_of_first() == StateForm::values);
  json["optimizer"]["states"][0]["form"] = "sums";
  CHECK_THROWS_WITH_AS(form_of_first(), "file: states are no sums", CheckpointError);
}

}  // namespace
