/// @file
/// The table of what is foretold and what the paper has, as text and as JSON.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "paper_errors.hpp"
#include "paper_foretold.hpp"

namespace paper {

/// A model or a layer that just fits.
struct Sized {
  std::string_view group;
  std::string name;
  double measured;
  double foretold;
  double by_formula;  ///< With the paper's 20 bytes a parameter; 0 where it has no part in it.
};

class Report {
 public:
  void print(const std::string& text);
  void title(std::string_view text);

  void head_times(std::string_view unit);
  /// @param unit Operations a second, of all GPUs or one, that are one in the table.
  /// @param note Of a row without a measurement.
  void add(const Timed& timed, std::string_view group, double unit, const std::string& note = {});

  /// @param by_engine, by_formula What stands above the columns.
  void head_sizes(std::string_view unit, std::string_view by_engine, std::string_view by_formula);
  void add(const Sized& sized, double unit, const std::string& note);

  /// One line of errors of models.
  nlohmann::ordered_json add(std::string_view name, const ErrorsOfModels& errors);

  nlohmann::ordered_json summary();

  const std::string& text() const { return text_; }

  nlohmann::ordered_json rows = nlohmann::ordered_json::array();

 private:
  std::string text_;
  ErrorsOfModels times_;
  Errors floor_;
  Errors models_;
  Errors models_by_formula_;
};

}  // namespace paper
