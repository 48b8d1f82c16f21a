/// @file
/// Rates by size in a JSON file.
#pragma once

#include <nlohmann/json.hpp>

#include "json_field.hpp"
#include "work_rate.hpp"

namespace machine::detail {

inline nlohmann::ordered_json points_of(const WorkRate& rate) {
  nlohmann::ordered_json points = nlohmann::ordered_json::array();
  for (const RatePoint& point : rate.points) points.push_back({{"size", point.size}, {"per_second", point.per_second}});
  return points;
}

inline WorkRate rate_of(const Field& field) {
  WorkRate rate;
  field.for_each_element([&](const Field& point) {
    rate.points.push_back({point.at("size").positive(), point.at("per_second").positive()});
    if (rate.points.size() > 1 && rate.points.back().size <= rate.points[rate.points.size() - 2].size) {
      point.at("size").refuse("is not larger than the one before");
    }
  });
  return rate;
}

}  // namespace machine::detail
