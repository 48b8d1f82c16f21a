/// @file
/// CommonOutcome: what fails on one rank fails on all of them, alike.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <source_location>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/engine/detail/engine.hpp>
#include <zerospan/engine/detail/engine_description.hpp>
#include <zerospan/engine/states.hpp>

namespace zerospan::inline v0::detail {

/// The ranks of an engine, as they save or load files together.
/// @tparam Kind Says of what kind their errors are: `Kind::Error`, which has a `file()`, an `error_number()` and
/// `Kind::subject(error)`, and is made of message, file, subject, error number and place; `Kind::run(work)` calls
/// `work()`, and throws as such what is of files.
template <class Kind>
class CommonOutcome {
 public:
  using Error = typename Kind::Error;

  /// @param engine Outlives it. @param place This rank's, among all `places`.
  CommonOutcome(Engine& engine, std::size_t place, std::size_t places)
      : engine_{engine}, place_{place}, places_{places} {}

  /// A collective: runs `work` on every rank. @throws on all of them the error of the first rank that has
  /// one, if it is of the kind. Other errors are the engine's, or the rank's own: peers learn of them as of any other.
  template <class F>
  void together(F work) {
    std::optional<Error> failure;
    try {
      Kind::run(work);
    } catch (const Error& error) {
      failure = error;
    }
    tell(failure);
  }

  /// A collective: `edit(index, states)` changes what this rank holds of the parameter that is declared as the
  /// `index`th; it may throw an error of the kind, and is not called again then. @throws on all ranks, as `together`,
  /// with `in_part` behind its words.
  /// @param edit Returns an EditOutcome.
  template <class Edit>
  void edit_states(const EngineDescription& model, const EditOptions& options, std::string_view in_part, Edit edit) {
    std::optional<Error> failure;
    std::size_t index = 0;
    engine_.edit_states(
        [&](const StatesEdit& states) {
          while (model.parameters[index].name != states.parameter) ++index;
          if (failure) return EditOutcome::unchanged;
          try {
            return edit(index, states);
          } catch (const Error& error) {
            failure = error;
            return EditOutcome::unchanged;
          }
        },
        options);
    together([&] {
      if (failure) {
        throw Error{failure->what() + std::string{in_part}, failure->file(), Kind::subject(*failure),
                    failure->error_number(), failure->where()};
      }
    });
  }

  /// The same as `together` for one rank, rank 0, which tells the others some numbers: a collective of as many on every
  /// rank.
  /// @param work Returns them.
  template <class F>
  std::vector<std::int64_t> by_first(std::size_t numbers, F work) {
    std::vector<std::int64_t> told(numbers);
    together([&] {
      if (place_ == 0) told = work();
    });
    engine_.sum_over_ranks(told, "what rank 0 has found");
    return told;
  }

  /// Every rank's numbers, by rank; a collective.
  std::vector<std::int64_t> of_all(std::span<const std::int64_t> numbers) {
    std::vector<std::int64_t> all(places_ * numbers.size());
    std::ranges::copy(numbers, all.begin() + static_cast<std::ptrdiff_t>(place_ * numbers.size()));
    engine_.sum_over_ranks(all, "what the ranks have written");
    return all;
  }

 private:
  void tell(const std::optional<Error>& failure) {
    const std::int64_t failed = failure ? 1 : 0;
    const std::vector<std::int64_t> ranks = of_all({&failed, 1});
    const auto first = static_cast<std::size_t>(std::ranges::find(ranks, 1) - ranks.begin());
    if (first == places_) return;
    if (places_ == 1) throw Error{*failure};
    const std::string text = text_of(first, failure);
    std::vector<std::string> fields;
    for (std::size_t begin = 0; begin <= text.size();) {
      const std::size_t end = std::min(text.find('\0', begin), text.size());
      fields.push_back(text.substr(begin, end - begin));
      begin = end + 1;
    }
    fields.resize(4);
    int error_number = 0;
    std::from_chars(fields[3].data(), fields[3].data() + fields[3].size(), error_number);
    throw Error{"rank " + std::to_string(first) + ": " + fields[0], fields[1], fields[2], error_number,
                failure ? failure->where() : std::source_location::current()};
  }

  /// The failure of one rank, on every rank.
  std::string text_of(std::size_t rank, const std::optional<Error>& failure) {
    std::string mine;
    if (rank == place_) {
      mine = failure->what();
      for (const std::string& field :
           {failure->file(), Kind::subject(*failure), std::to_string(failure->error_number())}) {
        mine.append(1, '\0').append(field);
      }
    }
    auto size = static_cast<std::int64_t>(mine.size());
    engine_.sum_over_ranks({&size, 1}, "why the files fail");
    std::vector<std::int64_t> words((static_cast<std::size_t>(size) + 7) / 8);
    if (!mine.empty()) std::memcpy(words.data(), mine.data(), mine.size());
    engine_.sum_over_ranks(words, "why the files fail");
    std::string text(static_cast<std::size_t>(size), '\0');
    if (size > 0) std::memcpy(text.data(), words.data(), text.size());
    return text;
  }

  Engine& engine_;
  std::size_t place_;
  std::size_t places_;
};

}  // namespace zerospan::inline v0::detail
