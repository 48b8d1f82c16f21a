/// @file
/// GPT-2 as Hugging Face has it: safetensors whose linear layers are transposed, and a config.json.
///
/// The mathematics is the same: the tanh form of GELU, an epsilon of 1e-5, the head tied to the token embedding. What
/// the model cannot be is refused: another vocabulary than the 256 bytes, and what a config.json says otherwise.
#pragma once

#include <filesystem>
#include <memory>

#include <zerospan/partition/parameter_store.hpp>

#include "dimensions.hpp"

namespace gpt {

/// Looks whether a model is one that this program can compute: at the config.json beside it, if there is one, and at
/// its head, if that is there apart from the token embedding. Sizes are for `import_gpt2` to compare.
/// @throws zerospan::ConfigurationError if it is not; what zerospan::SafetensorsModel throws.
void check_gpt2(const std::filesystem::path& path, const Dimensions& dimensions);

/// A collective. @throws as zerospan::import_safetensors.
void import_gpt2(std::shared_ptr<zerospan::ParameterStore> store, const std::filesystem::path& path,
                 const Dimensions& dimensions);

/// A collective. @param path A ".safetensors" file; or a directory, made if it is not there, that gets a
/// model.safetensors.
/// @throws as zerospan::export_safetensors.
void export_gpt2(std::shared_ptr<zerospan::ParameterStore> store, const std::filesystem::path& path,
                 const Dimensions& dimensions);

/// Writes the config.json of a directory that a model was exported to, so that transformers'
/// GPT2LMHeadModel.from_pretrained takes it; nothing beside a file. One rank calls it, after the export.
/// @throws zerospan::IoError
void describe_gpt2(const std::filesystem::path& path, const Dimensions& dimensions);

}  // namespace gpt
