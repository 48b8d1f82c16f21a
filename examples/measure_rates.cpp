/// @file
/// Measures this machine in less than a minute, and writes what it does to a JSON file: disk, memory, matrix products,
/// the library's own work, collectives of ranks that are threads, and how much each gets in the way of the others.
/// Predictions of trainings are made of it. What runs besides is measured with it: a quiet machine gives the rates that
/// others will see. GPUs are not measured.
///
/// `mpirun -n 2 measure_rates --add-links rates.json --output rates.2.json` adds what collectives of these two
/// processes take, wherever mpirun has put them: the member "host_links", of one number of ranks and of groups.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <zerospan/core/element.hpp>
#include <zerospan/core/error.hpp>

#include "gpt/openblas.hpp"
#include "machine/measure.hpp"
#include "machine/measure_host_links.hpp"
#include "machine/rates.hpp"
#include "machine/rates_file.hpp"

namespace {

/// "WIDTH,HEADS,CONTEXT,BATCH" or "WIDTH,HEADS,CONTEXT,BATCH,TILES".
machine::ModelShape shape_of(const std::vector<std::size_t>& sizes) {
  return {{.layers = 1,
           .heads = sizes[1],
           .width = sizes[0],
           .context = sizes[2],
           .tiles = sizes.size() > 4 ? sizes[4] : 1},
          sizes[3]};
}

void print(const machine::Rates& r) {
  const auto disk = [](const char* name, const machine::DiskRates& d) {
    fmt::print(
        "{:<14}{:.2f} GB/s read, {:.2f} written; both at once {:.2f} and {:.2f}; while all cores compute {:.2f} and "
        "{:.2f}\n{:<14}{:.0f} and {:.0f} us for a smallest request, {:.0f} and {:.0f} while all cores compute; {:.2f} "
        "and {:.2f} core-seconds taken by a GB\n",
        name, d.read / 1e9, d.written / 1e9, d.mixed_read / 1e9, d.mixed_written / 1e9, d.busy_read / 1e9,
        d.busy_written / 1e9, "", d.read_latency * 1e6, d.write_latency * 1e6, d.busy_read_latency * 1e6,
        d.busy_write_latency * 1e6, d.read_core_time * 1e9, d.write_core_time * 1e9);
    for (const auto& [what, rate] : {std::pair{"a read of", d.read_alone}, std::pair{"a write of", d.write_alone}}) {
      fmt::print("{:<14}{}", "", what);
      for (const auto& [size, per_second] : rate.points)
        fmt::print("  {:.0f} KiB {:.2f} GB/s", size / 1024, per_second / 1e9);
      fmt::print("\n");
    }
  };
  fmt::print("{:<14}{}, {} cores; OpenBLAS's kernels for {}\n", "processor", r.processor, r.cores, r.matrix_kernels);
  disk("disk", r.disk);
  disk("with checksums", r.checked_disk);
  for (const auto& [name, rate] : r.work) {
    fmt::print("{:<34}", name);
    for (const auto& [size, per_second] : rate.points) fmt::print("  {:>8.3f} G/s of {:<8.0f}", per_second / 1e9, size);
    fmt::print("\n");
  }
  double slowest = r.products.front().flops_per_second;
  double fastest = slowest;
  for (const machine::ProductRate& each : r.products) {
    slowest = std::min(slowest, each.flops_per_second);
    fastest = std::max(fastest, each.flops_per_second);
  }
  fmt::print("{:<34}  {} shapes, {:.1f} to {:.1f} GFLOP/s on one thread\n", "matrix products", r.products.size(),
             slowest / 1e9, fastest / 1e9);
  for (const auto& [name, all] : r.collectives) {
    for (const machine::CollectiveRate& each : all) {
      fmt::print("{:<34}  {} ranks:", name, each.ranks);
      for (const auto& [size, per_second] : each.work.points) {
        fmt::print("  {:.2f} GB/s of {:.0f} bytes", per_second / 1e9, size);
      }
      fmt::print("\n");
    }
  }
  for (const auto& [ranks, seconds] : r.rendezvous) fmt::print("{} ranks meet in {:.1f} us\n", ranks, seconds * 1e6);
  fmt::print("a piece of work takes {:.1f} us to post, and begins {:.1f} us after what it waits for\n", r.post * 1e6,
             r.handoff * 1e6);
  fmt::print("{:<14}{:<14}", "times as long", "beside");
  for (const auto kind : machine::work_kinds) fmt::print("{:>12}", kind);
  fmt::print("\n");
  for (std::size_t of = 0; of < machine::work_kinds.size(); ++of) {
    fmt::print("{:<28}", machine::work_kinds[of]);
    for (const double each : r.slowdown[of]) fmt::print("{:>12.2f}", each);
    fmt::print("\n");
  }
}

void print(const machine::HostLinks& links) {
  fmt::print("{} ranks on {} machines with cores of their own\n", links.ranks, links.machines);
  for (const auto& [level_name, level] : links.levels) {
    fmt::print("{:<10}{} ranks meet in {:.0f} us, {:.0f} while all cores compute\n", level_name, level.ranks,
               1e6 * level.rendezvous, 1e6 * level.busy_rendezvous);
    for (const auto& [name, rate] : level.collectives) {
      for (const auto& [size, per_second] : rate.alone.points) {
        fmt::print("{:<40}{:>9.0f} bytes in {:8.2f} ms, {:8.2f} while all cores compute, {:6.2f} core-ms of a rank\n",
                   name, size, 1e3 * size / per_second, 1e3 * rate.busy.seconds(size), 1e3 * rate.cores.seconds(size));
      }
    }
  }
}

/// Adds the links of this job's ranks to the rates of a file.
int add_links(int argc, char** argv, const std::filesystem::path& file, const std::filesystem::path& output,
              const machine::LinkOptions& options) {
  machine::Rates rates = machine::read_rates(file);
  rates.host_links = machine::measure_host_links(argc, argv, options);
  if (!rates.host_links) return 0;  // rank 0 has them
  machine::write_rates(rates, output);
  print(*rates.host_links);
  return 0;
}

int run(CLI::App& app, int argc, char** argv) {
  machine::MeasureOptions options;
  std::filesystem::path output = "rates.json";
  std::uint64_t disk_mebibytes = options.disk_bytes >> 20;
  std::vector<std::vector<std::size_t>> models;
  app.add_option("--output", output, "The file of the rates")->capture_default_str();
  app.add_option("--directory", options.directory, "On the disk that is measured; nothing is left there")
      ->check(CLI::ExistingDirectory)
      ->capture_default_str();
  app.add_option("--disk-mebibytes", disk_mebibytes, "Of the file that is written and read")
      ->check(CLI::Range(32, 65536))
      ->capture_default_str();
  app.add_option("--model", models, "WIDTH,HEADS,CONTEXT,BATCH[,TILES]: a model whose products are measured too")
      ->delimiter(',')
      ->expected(4, 5)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  app.add_option("--ranks", options.ranks, "Numbers of ranks whose collectives are measured")
      ->delimiter(',')
      ->check(CLI::Range(2, 64));
  app.add_option("--moment", options.moment, "Seconds of a trial")
      ->check(CLI::Range(0.001, 1.0))
      ->capture_default_str();
  std::filesystem::path rates_of_machine;
  machine::LinkOptions links;
  CLI::Option* const add =
      app.add_option("--add-links", rates_of_machine,
                     "Rates of this machine: those of the links between the ranks that mpirun has started are added")
          ->check(CLI::ExistingFile);
  app.add_option("--ranks-per-group", links.ranks_per_group, "Of ranks whose links are measured; 0: no groups")
      ->check(CLI::Range(0, 1024))
      ->needs(add)
      ->capture_default_str();
  app.add_option("--types", links.types, "Of gradients that are summed over links")
      ->delimiter(',')
      ->needs(add)
      ->transform(CLI::CheckedTransformer(
          std::map<std::string, zerospan::ElementType>{{"fp32", zerospan::ElementType::float32},
                                                       {"bf16", zerospan::ElementType::bfloat16},
                                                       {"fp16", zerospan::ElementType::float16}}));
  app.parse(argc, argv);
  if (!rates_of_machine.empty()) return add_links(argc, argv, rates_of_machine, output, links);
  options.disk_bytes = disk_mebibytes << 20;
  for (const auto& sizes : models) options.models.push_back(shape_of(sizes));
  const auto begin = std::chrono::steady_clock::now();
  options.progress = [begin](std::string_view what) {
    fmt::print(stderr, "{:5.1f} s  {}\n",
               std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), what);
  };
  const machine::Rates rates = machine::measure(options);
  options.progress("all is measured");
  machine::write_rates(rates, output);
  print(rates);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  gpt::openblas::choose_kernels(argv);
  CLI::App app{"Measures this machine, and writes what it does to a file."};
  try {
    return run(app, argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const zerospan::ConfigurationError& error) {
    fmt::print(stderr, "measure_rates: {}\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "measure_rates: {}\n", error.what());
    return 1;
  }
}
