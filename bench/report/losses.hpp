/// @file
/// The losses of several trainings as curves that lie on one another, and are all seen.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "drawing/svg.hpp"
#include "error.hpp"

namespace bench {

struct Loss {
  std::int64_t step;
  double value;

  friend bool operator==(const Loss&, const Loss&) = default;
};

/// What one training told, step after step.
struct LossCurve {
  std::string name;
  std::vector<Loss> losses;
};

/// How the curves differ: "equal to the last bit", or by how much at most.
inline std::string compare_losses(const std::vector<LossCurve>& curves) {
  double largest = 0;
  for (const LossCurve& curve : curves) {
    const auto& first = curves.front().losses;
    if (!std::ranges::equal(first, curve.losses, {}, &Loss::step, &Loss::step)) return "of different steps";
    for (std::size_t i = 0; i < first.size(); ++i) {
      largest = std::max(largest, std::abs(curve.losses[i].value - first[i].value));
    }
  }
  return largest == 0 ? "equal to the last bit" : fmt::format("up to {:.2g} apart", largest);
}

/// Draws each curve thinner than the one before, and the later ones dashed.
/// @throws ReportError if there are no two curves, or one has fewer than two losses.
inline std::string draw_losses(const std::vector<LossCurve>& curves) {
  constexpr double left = 60;
  constexpr double right = 640;
  constexpr double head = 40;
  constexpr double bottom = 300;
  constexpr double widest = 14;
  constexpr double thinnest = 3.5;
  constexpr std::array<std::string_view, 4> dashes{"", "", "16 12", "8 8"};
  if (curves.size() < 2) throw ReportError{"there are no two trainings to compare"};
  std::vector<Loss> all;
  for (const LossCurve& curve : curves) {
    if (curve.losses.size() < 2) throw ReportError{curve.name + ": fewer than two losses make no curve"};
    all.insert(all.end(), curve.losses.begin(), curve.losses.end());
  }
  const auto [first_loss, last_loss] = std::ranges::minmax(all, {}, &Loss::step);
  const auto [least_loss, most_loss] = std::ranges::minmax(all, {}, &Loss::value);
  const auto first = static_cast<double>(first_loss.step);
  const auto last = static_cast<double>(last_loss.step);
  const double least = least_loss.value;
  const double most = most_loss.value > least ? most_loss.value : least + 1;  // or the line is level
  const auto x = [&](double step) { return left + (step - first) / (last - first) * (right - left); };
  const auto y = [&](double loss) { return bottom - (loss - least) / (most - least) * (bottom - head); };

  const std::string headline = fmt::format("The losses of {} trainings: {}", curves.size(), compare_losses(curves));
  drawing::Svg svg{{900, bottom + 46}, headline};
  svg.text({left, 22}, headline, {.size = 14, .bold = true});
  for (const double tick : drawing::ticks(least, most, 6)) {
    svg.line({{left, y(tick)}, {right, y(tick)}}, {.colour = drawing::colours::grid});
    svg.text({left - 8, y(tick) + 4}, fmt::format("{:.4g}", tick), {.anchor = drawing::Anchor::end, .size = 11});
  }
  for (const double tick : drawing::ticks(first, last, 8)) {
    if (tick != std::floor(tick)) continue;
    svg.text({x(tick), bottom + 18}, fmt::format("{:.0f}", tick), {.anchor = drawing::Anchor::middle, .size = 11});
  }
  svg.text({(left + right) / 2, bottom + 36}, "steps", {.anchor = drawing::Anchor::middle, .size = 11});

  for (std::size_t i = 0; i < curves.size(); ++i) {
    std::vector<drawing::Point> points;
    for (const auto& [step, value] : curves[i].losses) points.push_back({x(static_cast<double>(step)), y(value)});
    const double part = static_cast<double>(i) / static_cast<double>(curves.size() - 1);
    const drawing::Stroke stroke{drawing::colours::all[i % drawing::colours::all.size()],
                                 widest + part * (thinnest - widest), dashes[std::min(i, dashes.size() - 1)]};
    svg.line(points, stroke);
    const double height = head + 12 + 24 * static_cast<double>(i);
    svg.line({{right + 24, height}, {right + 74, height}}, stroke);
    svg.text({right + 84, height + 4}, curves[i].name);
  }
  return svg.file();
}

}  // namespace bench
