/// @file
/// A cluster of GPUs in a JSON file: what it has, and what its links carry.
#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include <zerospan/core/error.hpp>
#include <zerospan/sim/topology.hpp>

#include "../machine/json_field.hpp"

namespace cluster {

/// Nodes of GPUs. All figures are bytes, seconds and operations.
struct Cluster {
  std::string name;
  std::string source;  ///< Where its figures are from, and what of them is assumed.
  zerospan::sim::Topology topology{};
  double gpu_memory = 0;        ///< Of a GPU.
  double framework_memory = 0;  ///< Of it, what a framework takes for itself: its context, its libraries.
  double host_memory = 0;       ///< Of a node.
  double disk_capacity = 0;     ///< Of a node.
};

/// @param file Named in errors.
/// @throws zerospan::ConfigurationError that names the file and the field which is missing or wrong.
inline Cluster cluster_from_json(const nlohmann::json& json, const std::string& file) {
  using machine::Field;
  const Field all{json, file, ""};
  if (all.at("format").text() != "zerospan cluster") all.at("format").refuse("is not that of clusters");
  if (all.at("version").count() != 1) all.at("version").refuse("is not 1");
  const auto link = [&all](const char* name) {
    const Field field = all.at(name);
    return zerospan::sim::Link{field.at("bytes_per_second").positive(), field.at("latency_seconds").not_negative()};
  };
  const auto count = [](const Field& field) {
    if (field.count() > 1'000'000) field.refuse("is more than a million");
    return static_cast<int>(field.count());
  };
  const Field gpu = all.at("gpu");
  const Field host = all.at("host");
  const Field nvme = all.at("nvme");
  Cluster c;
  c.name = all.at("name").text();
  c.source = all.at("source").text();
  c.gpu_memory = gpu.at("memory_bytes").positive();
  c.framework_memory = gpu.at("framework_bytes").not_negative();
  c.host_memory = host.at("memory_bytes").positive();
  c.disk_capacity = nvme.at("capacity_bytes").not_negative();
  c.topology = {.nodes = count(all.at("nodes")),
                .ranks_per_node = count(all.at("gpus_per_node")),
                .within = link("between_gpus"),
                .between = link("between_nodes"),
                .adapter = all.at("between_nodes").at("bytes_per_second_of_one_gpu").positive(),
                .host_link = {.to_device = link("host_to_gpu"),
                              .to_host = link("gpu_to_host"),
                              .ranks = count(all.at("gpus_per_host_link"))},
                .disk = {.read = nvme.at("read_bytes_per_second").positive(),
                         .write = nvme.at("written_bytes_per_second").positive(),
                         .mixed = nvme.at("mixed_bytes_per_second").positive(),
                         .latency = nvme.at("latency_seconds").not_negative(),
                         .scope = zerospan::sim::Scope::node},
                .host_memory = {.bytes_per_second = host.at("memory_bytes_per_second").positive()},
                .device_memory = {.bytes_per_second = gpu.at("memory_bytes_per_second").positive()},
                .flops_per_second = gpu.at("flops_per_second").positive(),
                .collectives = zerospan::sim::Algorithm::ring};
  if (c.topology.host_link.ranks > c.topology.ranks_per_node) {
    all.at("gpus_per_host_link").refuse("is more than the GPUs of a node");
  }
  return c;
}

/// @throws std::system_error if the file cannot be read; as `cluster_from_json`.
inline Cluster read_cluster(const std::filesystem::path& path) {
  return cluster_from_json(machine::read_json(path, "the cluster"), path.string());
}

/// The same with so many GPUs: of one node, or of several whole ones. A node's memory and disks stay what they are.
/// @throws zerospan::ConfigurationError if they are neither.
inline Cluster with_gpus(Cluster cluster, int gpus) {
  zerospan::sim::Topology& t = cluster.topology;
  if (gpus > t.ranks_per_node && gpus % t.ranks_per_node != 0) {
    zerospan::throw_configuration_error(std::to_string(gpus) + " GPUs are no whole nodes of " +
                                        std::to_string(t.ranks_per_node));
  }
  t.nodes = gpus > t.ranks_per_node ? gpus / t.ranks_per_node : 1;
  t.ranks_per_node = gpus / t.nodes;
  if (t.host_link.ranks > t.ranks_per_node) t.host_link.ranks = t.ranks_per_node;
  return cluster;
}

}  // namespace cluster
