/// @file
/// Rates in a JSON file.
#pragma once

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>

#include <nlohmann/json.hpp>

#include <zerospan/core/error.hpp>

#include "host_links_file.hpp"
#include "json_field.hpp"
#include "rates.hpp"
#include "rates_field.hpp"

namespace machine {

namespace detail {

inline constexpr std::string_view rates_format = "zerospan rates";
inline constexpr int rates_version = 2;

/// Every number of a disk, under the name that it has in files.
template <class Disk, class Visit>
void for_each_disk_rate(Disk& disk, Visit visit) {
  visit("read_bytes_per_second", disk.read);
  visit("written_bytes_per_second", disk.written);
  visit("mixed_read_bytes_per_second", disk.mixed_read);
  visit("mixed_written_bytes_per_second", disk.mixed_written);
  visit("busy_read_bytes_per_second", disk.busy_read);
  visit("busy_written_bytes_per_second", disk.busy_written);
  visit("read_latency_seconds", disk.read_latency);
  visit("write_latency_seconds", disk.write_latency);
  visit("busy_read_latency_seconds", disk.busy_read_latency);
  visit("busy_write_latency_seconds", disk.busy_write_latency);
  visit("read_core_seconds_per_byte", disk.read_core_time);
  visit("write_core_seconds_per_byte", disk.write_core_time);
}

}  // namespace detail

inline nlohmann::ordered_json to_json(const Rates& r) {
  using nlohmann::ordered_json;
  ordered_json j{{"format", detail::rates_format},
                 {"version", detail::rates_version},
                 {"processor", {{"name", r.processor}, {"cores", r.cores}, {"matrix_kernels", r.matrix_kernels}}}};
  const auto add_disk = [&j](const char* name, const DiskRates& disk) {
    detail::for_each_disk_rate(disk, [&](const char* field, double value) { j[name][field] = value; });
    j[name]["alignment_bytes"] = disk.alignment;
    j[name]["read_alone"] = detail::points_of(disk.read_alone);
    j[name]["write_alone"] = detail::points_of(disk.write_alone);
  };
  add_disk("disk", r.disk);
  add_disk("checked_disk", r.checked_disk);
  for (const auto& [name, rate] : r.work) j["work"][name] = detail::points_of(rate);
  const auto add_products = [&j](const char* name, const std::vector<ProductRate>& products) {
    for (const ProductRate& p : products) {
      j[name].push_back({{"kind", product_kinds[static_cast<std::size_t>(p.shape.kind)]},
                         {"m", p.shape.m},
                         {"n", p.shape.n},
                         {"k", p.shape.k},
                         {"flops_per_second", p.flops_per_second}});
    }
  };
  add_products("products", r.products);
  if (!r.bf16_products.empty()) add_products("bf16_products", r.bf16_products);
  for (const AttentionRate& a : r.attention) {
    j["attention"].push_back(
        {{"length", a.length}, {"head", a.head}, {"forward_seconds", a.forward}, {"backward_seconds", a.backward}});
  }
  for (const auto& [name, all] : r.collectives) {
    for (const CollectiveRate& each : all) {
      j["collectives"][name].push_back({{"ranks", each.ranks}, {"work", detail::points_of(each.work)}});
    }
  }
  for (const auto& [ranks, seconds] : r.rendezvous) j["rendezvous"].push_back({{"ranks", ranks}, {"seconds", seconds}});
  j["lanes"] = {{"post_seconds", r.post}, {"handoff_seconds", r.handoff}};
  for (std::size_t of = 0; of < work_kinds.size(); ++of) {
    for (std::size_t beside = 0; beside < work_kinds.size(); ++beside) {
      j["slowdown"][std::string{work_kinds[of]}][std::string{work_kinds[beside]}] = r.slowdown[of][beside];
    }
  }
  if (r.host_links) j["host_links"] = to_json(*r.host_links);
  return j;
}

/// @param file Named in errors.
/// @throws zerospan::ConfigurationError that names the file and the field which is missing or wrong.
inline Rates rates_from_json(const nlohmann::json& json, const std::string& file) {
  const Field all{json, file, ""};
  if (all.at("format").text() != detail::rates_format) all.at("format").refuse("is not that of rates");
  if (all.at("version").count() != detail::rates_version) all.at("version").refuse("is not 2");
  Rates r;
  r.processor = all.at("processor").at("name").text();
  r.cores = static_cast<int>(all.at("processor").at("cores").count());
  r.matrix_kernels = all.at("processor").at("matrix_kernels").text();
  const auto read_disk = [&all](const char* name, DiskRates& disk) {
    const Field of_disk = all.at(name);
    detail::for_each_disk_rate(disk, [&](const std::string& field, double& value) {
      const bool is_rate = field.ends_with("per_second");
      value = is_rate ? of_disk.at(field).positive() : of_disk.at(field).not_negative();
    });
    disk.alignment = static_cast<double>(of_disk.at("alignment_bytes").count());
    disk.read_alone = detail::rate_of(of_disk.at("read_alone"));
    disk.write_alone = detail::rate_of(of_disk.at("write_alone"));
  };
  read_disk("disk", r.disk);
  read_disk("checked_disk", r.checked_disk);
  all.at("work").for_each_member(
      [&](const std::string& name, const Field& field) { r.work[name] = detail::rate_of(field); });
  const auto read_products = [&all](const char* name, std::vector<ProductRate>& products) {
    all.at(name).for_each_element([&](const Field& field) {
      products.push_back({{static_cast<ProductKind>(field.at("kind").one_of(product_kinds)), field.at("m").count(),
                           field.at("n").count(), field.at("k").count()},
                          field.at("flops_per_second").positive()});
    });
  };
  read_products("products", r.products);
  if (json.contains("bf16_products")) read_products("bf16_products", r.bf16_products);
  all.at("attention").for_each_element([&](const Field& field) {
    r.attention.push_back({field.at("length").count(), field.at("head").count(), field.at("forward_seconds").positive(),
                           field.at("backward_seconds").positive()});
  });
  all.at("collectives").for_each_member([&](const std::string& name, const Field& list) {
    list.for_each_element([&](const Field& field) {
      r.collectives[name].push_back({static_cast<int>(field.at("ranks").count()), detail::rate_of(field.at("work"))});
    });
  });
  all.at("rendezvous").for_each_element([&](const Field& field) {
    r.rendezvous[static_cast<int>(field.at("ranks").count())] = field.at("seconds").not_negative();
  });
  r.post = all.at("lanes").at("post_seconds").not_negative();
  r.handoff = all.at("lanes").at("handoff_seconds").not_negative();
  for (std::size_t of = 0; of < work_kinds.size(); ++of) {
    const Field row = all.at("slowdown").at(std::string{work_kinds[of]});
    for (std::size_t beside = 0; beside < work_kinds.size(); ++beside) {
      r.slowdown[of][beside] = row.at(std::string{work_kinds[beside]}).positive();
    }
  }
  if (json.contains("host_links")) r.host_links = host_links_of(all.at("host_links"));
  return r;
}

/// @throws std::system_error if the file cannot be read; as `rates_from_json`.
inline Rates read_rates(const std::filesystem::path& path) {
  return rates_from_json(read_json(path, "the rates"), path.string());
}

/// @throws std::system_error if the file cannot be written.
inline void write_rates(const Rates& rates, const std::filesystem::path& path) {
  std::ofstream stream{path};
  stream << to_json(rates).dump(1) << '\n';
  stream.close();
  if (!stream) throw std::system_error{errno, std::generic_category(), "cannot write the rates to " + path.string()};
}

}  // namespace machine
