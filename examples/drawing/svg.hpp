/// @file
/// Drawings as SVG: a few shapes, and colours that can be seen on white and on GitHub's dark background.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "error.hpp"

namespace drawing {

/// Colours of which each stands out from white and from GitHub's dark background. There is no background of our own.
namespace colours {

inline constexpr std::string_view text = "#757a81";
inline constexpr std::string_view grid = "#8b929b55";  // may be faint: what it helps to read is also told in numbers
inline constexpr std::string_view white = "#ffffff";   // around what lies on bars
inline constexpr std::string_view blue = "#2f81d6";
inline constexpr std::string_view orange = "#cf6a1a";
inline constexpr std::string_view green = "#2c9a55";
inline constexpr std::string_view purple = "#9a66d9";
inline constexpr std::string_view red = "#d8525a";
inline constexpr std::string_view teal = "#1f9a9a";
inline constexpr std::string_view pink = "#c75aa5";
inline constexpr std::array all{blue, orange, green, purple, red, teal, pink};

}  // namespace colours

/// Text as XML has it. Characters that XML cannot have become question marks.
inline std::string escape(std::string_view text) {
  std::string escaped;
  for (const char character : text) {
    switch (character) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&apos;";
        break;
      default:
        escaped += static_cast<unsigned char>(character) < 0x20 ? '?' : character;
    }
  }
  return escaped;
}

struct Point {
  double x;
  double y;
};

struct Extent {
  double width;
  double height;
};

/// How a line is drawn.
struct Stroke {
  std::string_view colour;
  double width = 1;
  std::string_view dashes{};  ///< Lengths of dashes and gaps in turns ("6 3"); without, it is solid.
};

/// Which point of a text is where it is put.
enum class Anchor : std::uint8_t { start, middle, end };

/// How a text is drawn.
struct Lettering {
  Anchor anchor = Anchor::start;
  std::string_view colour = colours::text;
  double size = 12;
  bool bold = false;
};

/// A drawing whose origin is the left upper corner; a unit is a pixel. What is drawn later lies above.
class Svg {
 public:
  /// @param title What the drawing shows, for who cannot see it.
  Svg(Extent size, std::string_view title)
      : text_{fmt::format(
            R"(<svg xmlns="http://www.w3.org/2000/svg" width="{0}" height="{1}" viewBox="0 0 {0} {1}" role="img" )"
            R"(font-family="system-ui, 'Segoe UI', Helvetica, Arial, sans-serif">)"
            "\n<title>{2}</title>\n",
            number(size.width), number(size.height), escape(title))} {}

  void rectangle(Point corner, Extent size, std::string_view colour, double opacity = 1) {
    text_ += fmt::format(R"(<rect x="{}" y="{}" width="{}" height="{}" fill="{}")", number(corner.x), number(corner.y),
                         number(size.width), number(size.height), colour);
    if (opacity < 1) text_ += fmt::format(R"( fill-opacity="{}")", number(opacity));
    text_ += "/>\n";
  }

  /// @param inside The colour within.
  void circle(Point centre, double radius, std::string_view inside, const Stroke& stroke) {
    text_ += fmt::format(R"(<circle cx="{}" cy="{}" r="{}" fill="{}"{}/>)", number(centre.x), number(centre.y),
                         number(radius), inside, attributes(stroke)) +
             '\n';
  }

  /// A line through all points.
  void line(const std::vector<Point>& points, const Stroke& stroke) {
    text_ += R"(<polyline points=")";
    for (std::size_t i = 0; i < points.size(); ++i) {
      text_ += fmt::format("{}{},{}", i == 0 ? "" : " ", number(points[i].x), number(points[i].y));
    }
    text_ += fmt::format(R"(" fill="none" stroke-linejoin="round"{}/>)", attributes(stroke)) + '\n';
  }

  /// @param at The anchor's place on the base line.
  void text(Point at, std::string_view words, const Lettering& lettering = {}) {
    constexpr std::array<std::string_view, 3> anchors{"start", "middle", "end"};
    text_ += fmt::format(R"(<text x="{}" y="{}" font-size="{}" fill="{}" text-anchor="{}"{}>{}</text>)", number(at.x),
                         number(at.y), number(lettering.size), lettering.colour,
                         anchors[static_cast<std::size_t>(lettering.anchor)],
                         lettering.bold ? R"( font-weight="bold")" : "", escape(words)) +
             '\n';
  }

  /// The whole file.
  std::string file() const { return text_ + "</svg>\n"; }

 private:
  /// @throws DrawingError if there is no such place.
  static std::string number(double value) {
    if (!std::isfinite(value)) throw DrawingError{fmt::format("nothing can be drawn at {}", value)};
    return fmt::format("{}", std::round(value * 100) / 100 + 0.0);  // which is no -0
  }

  static std::string attributes(const Stroke& stroke) {
    return fmt::format(R"( stroke="{}" stroke-width="{}"{})", stroke.colour, number(stroke.width),
                       stroke.dashes.empty() ? "" : fmt::format(R"( stroke-dasharray="{}")", stroke.dashes));
  }

  std::string text_;
};

/// Round numbers from `from` to `to`, at most `most` and one: 1, 2 or 5 times a power of ten apart.
inline std::vector<double> ticks(double from, double to, int most) {
  const double least = (to - from) / most;
  const double power = std::pow(10, std::floor(std::log10(least)));
  double apart = 10 * power;
  for (const double step : {5.0, 2.0, 1.0}) {
    if (step * power >= least) apart = step * power;
  }
  std::vector<double> at;
  for (double i = std::ceil(from / apart - 1e-9); i <= to / apart + 1e-9; ++i) at.push_back(i * apart + 0.0);
  return at;
}

}  // namespace drawing
