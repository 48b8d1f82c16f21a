/// @file
/// How a machine is measured.
#include "measure.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <cblas.h>

#include "../gpt/openblas.hpp"
#include "../gpt/options.hpp"
#include "disk_rates.hpp"
#include "library_work.hpp"
#include "links.hpp"
#include "model_work.hpp"
#include "rates.hpp"
#include "work.hpp"

namespace machine {

namespace {

/// What the processor calls itself.
std::string processor_name() {
  std::ifstream file{"/proc/cpuinfo"};
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(std::min(line.find(':') + 2, line.size()));
  }
  return "unknown";
}

/// Shapes between which others are guessed.
std::vector<ProductShape> grid_of_products() {
  constexpr std::array<std::size_t, 3> rows{64, 256, 1024};
  constexpr std::array<std::size_t, 3> columns{128, 512, 2048};
  std::vector<ProductShape> all;
  for (const std::size_t n : rows) {
    for (const std::size_t out : columns) {
      for (const std::size_t in : columns) {
        all.push_back({ProductKind::forward, n, out, in});
        all.push_back({ProductKind::input, n, in, out});
        all.push_back({ProductKind::weight, out, in, n});
      }
    }
  }
  return all;
}

/// What stands for each kind of work, where kinds get in each other's way.
std::array<Work, work_kinds.size()> typical_work() {
  using zerospan::ElementType;
  return {product({ProductKind::forward, 256, 512, 512}), elementwise(256, 512)[3], copies(std::size_t{1} << 20),
          sums(zerospan::Addition::replace, ElementType::float32, ElementType::float32, std::size_t{1} << 18),
          updates(zerospan::AdamW{}, "AdamW", ElementType::float32, std::size_t{1} << 18)};
}

}  // namespace

Rates measure(const MeasureOptions& options) {
  Rates rates;
  rates.processor = processor_name();
  rates.cores = static_cast<int>(std::max(std::thread::hardware_concurrency(), 1U));
  rates.matrix_kernels = gpt::openblas::kernels().core;
  ::openblas_set_num_threads(1);
  Stopwatch stopwatch{rates.cores, options.moment};

  options.progress("the library's work");
  for (const std::vector<Work>& all : {library_work(), model_work()}) {
    for (const Work& work : all) {
      std::vector<RatePoint>& points = rates.work[work.name].points;
      points.push_back({work.size, stopwatch.alone(work)});
    }
  }

  options.progress("matrix products");
  std::vector<ProductShape> shapes = grid_of_products();
  for (const ModelShape& model : options.models) {
    for (const ProductShape& shape : products_of(model)) {
      if (std::ranges::find(shapes, shape) == shapes.end()) shapes.push_back(shape);
    }
  }
  for (const ProductShape& shape : shapes) {
    rates.products.push_back({shape, stopwatch.alone(product(shape))});
    if (!gpt::Bf16Products::instructions().empty()) {
      rates.bf16_products.push_back({shape, stopwatch.alone(bf16_product(shape))});
    }
  }

  options.progress("attention");
  const auto add_attention = [&](std::size_t length, std::size_t head) {
    const auto is_same = [&](const AttentionRate& each) { return each.length == length && each.head == head; };
    if (std::ranges::any_of(rates.attention, is_same)) return;
    rates.attention.push_back({length, head, 1 / stopwatch.alone(attention(length, head, false)),
                               1 / stopwatch.alone(attention(length, head, true))});
  };
  for (const std::size_t length : {std::size_t{32}, std::size_t{128}, std::size_t{512}}) {
    for (const std::size_t head : {std::size_t{16}, std::size_t{64}, std::size_t{128}}) add_attention(length, head);
  }
  for (const auto& [model, batch] : options.models) add_attention(model.context, model.width / model.heads);

  options.progress("work beside other work");
  const auto kinds = typical_work();
  for (std::size_t of = 0; of < kinds.size(); ++of) {
    for (std::size_t beside = 0; beside < kinds.size(); ++beside) {
      const double alone = stopwatch.alone(kinds[of]);
      rates.slowdown[of][beside] = alone / stopwatch.beside(kinds[of], kinds[beside]);
    }
  }

  options.progress("the disk");
  rates.disk = measure_disk(options.directory.string(), options.disk_bytes, false, stopwatch, kinds[0]);
  rates.checked_disk = gpt::has_checksums
                           ? measure_disk(options.directory.string(), options.disk_bytes, true, stopwatch, kinds[0])
                           : rates.disk;

  options.progress("collectives");
  for (const int ranks : options.ranks) measure_collectives(ranks, rates);
  measure_lanes(rates);
  return rates;
}

}  // namespace machine
