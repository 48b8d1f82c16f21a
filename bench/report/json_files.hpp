/// @file
/// What benchmarks and trainings write, goals and tables, as files.
///
/// What cannot be read or written is a zerospan::IoError, what is not as it should be a zerospan::FormatError, which
/// names the file and the entry or line.
#pragma once

#include <string>
#include <vector>

#include "drawing/timeline.hpp"
#include "losses.hpp"
#include "table.hpp"

namespace bench {

/// The goals: a list of objects with `name`, `goal`, `prediction`, `reason` and, for upper bounds, `at_most`.
std::vector<Goal> read_goals(const std::string& path);

/// Measurements that stand in a list: objects with `name`, `unit`, `ours` and `baseline`.
std::vector<Measurement> read_measurements(const std::string& path);

/// The medians in a Google Benchmark report, and how far repetitions were apart. A benchmark `topic/...` is paired with
/// `topic_raw/...`; others are left out, but for those with a counter `microseconds`: their ratio is how many they are.
/// What says how they were measured is no part of the name: `load/iterations:2/real_time` is `load`.
/// @throws ReportError if a benchmark failed, or has another unit than its baseline.
std::vector<Measurement> read_report(const std::string& path);

/// The median tokens a second in the metrics of training runs, ours and of the baseline: one JSON object a line. The
/// first two steps of a run do not count: they find out in which order parameters are used.
/// @param name Of the measurement.
Measurement read_trainings(const std::string& name, const std::string& ours, const std::string& baseline);

/// What has computed the matrix products of a training run, and how fast, by its metrics; empty if they do not tell.
std::string matrix_products(const std::string& path);

/// A table that write_table() wrote.
std::vector<Row> read_table(const std::string& path);

/// Writes a list of objects with `name`, `ratio`, `goal`, `prediction`, `unit`, `ours` and `baseline`; `at_most` where
/// the goal is an upper bound, `previous` where the table before has the row, `noise` where it is known.
void write_table(const std::string& path, const std::vector<Row>& rows);

/// The losses in the metrics of one training run.
/// @param name Of the curve.
LossCurve read_losses(const std::string& name, const std::string& path);

/// The lanes of one rank in a Chrome trace, in the order of their tracks.
std::vector<drawing::TracedLane> read_lanes(const std::string& path, int rank);

/// Makes or replaces a file.
void write_file(const std::string& path, const std::string& text);

}  // namespace bench
