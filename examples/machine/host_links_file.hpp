/// @file
/// HostLinks as JSON: the member "host_links" of a file of rates, which is there if they were measured.
#pragma once

#include <algorithm>
#include <string>

#include <nlohmann/json.hpp>

#include "host_links.hpp"
#include "json_field.hpp"
#include "rates_field.hpp"

namespace machine {

namespace detail {

template <class Rate, class Visit>
void for_each_link_rate(Rate& rate, Visit visit) {
  visit("alone", rate.alone);
  visit("busy", rate.busy);
  visit("cores", rate.cores);
}

}  // namespace detail

inline nlohmann::ordered_json to_json(const HostLinks& links) {
  nlohmann::ordered_json j{
      {"machines", links.machines}, {"ranks", links.ranks}, {"ranks_per_group", links.ranks_per_group}};
  for (const auto& [name, level] : links.levels) {
    nlohmann::ordered_json& of_level = j["levels"][name];
    of_level["ranks"] = level.ranks;
    of_level["rendezvous_seconds"] = level.rendezvous;
    of_level["busy_rendezvous_seconds"] = level.busy_rendezvous;
    of_level["collectives"] = nlohmann::ordered_json::object();
    for (const auto& [collective, rate] : level.collectives) {
      detail::for_each_link_rate(rate, [&](const char* what, const WorkRate& value) {
        of_level["collectives"][collective][what] = detail::points_of(value);
      });
    }
  }
  return j;
}

/// @throws zerospan::ConfigurationError that names the file and the field which is missing or wrong.
inline HostLinks host_links_of(const Field& field) {
  HostLinks links;
  links.machines = static_cast<int>(field.at("machines").count());
  links.ranks = static_cast<int>(field.at("ranks").count());
  links.ranks_per_group = static_cast<int>(field.at("ranks_per_group").not_negative());
  field.at("levels").for_each_member([&](const std::string& name, const Field& of_level) {
    if (std::ranges::find(link_levels, name) == link_levels.end()) of_level.refuse("is not known");
    LinkLevel& level = links.levels[name];
    level.ranks = static_cast<int>(of_level.at("ranks").count());
    level.rendezvous = of_level.at("rendezvous_seconds").not_negative();
    level.busy_rendezvous = of_level.at("busy_rendezvous_seconds").not_negative();
    of_level.at("collectives").for_each_member([&](const std::string& collective, const Field& rate) {
      detail::for_each_link_rate(level.collectives[collective],
                                 [&](const char* what, WorkRate& value) { value = detail::rate_of(rate.at(what)); });
    });
  });
  return links;
}

}  // namespace machine
