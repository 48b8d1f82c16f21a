/// @file
/// AnyExchange: a ByteExchange whose type is forgotten.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <zerospan/comm/byte_exchange.hpp>
#include <zerospan/comm/communicator.hpp>
#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/core/units.hpp>

namespace zerospan::inline v0::detail {

/// How ranks of NCCL set their communicators up and compare their calls, which is rare. Copies share the exchange.
class AnyExchange {
 public:
  template <ByteExchange E>
  static AnyExchange of(E exchange) {
    return AnyExchange{std::make_shared<Model<E>>(std::move(exchange))};
  }

  Rank rank() const { return model_->rank(); }
  int size() const { return model_->size(); }
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) { model_->all_gather(mine, all); }

  /// An independent one where the exchange can be duplicated; otherwise the same one.
  AnyExchange duplicate() {
    auto other = model_->duplicate();
    return AnyExchange{other ? std::move(other) : model_};
  }

  bool can_split() const noexcept { return model_->can_split(); }
  /// @throws ConfigurationError where the exchange cannot be split.
  AnyExchange split(SplitPlace place) { return AnyExchange{model_->split(place)}; }

  /// Does nothing where the exchange cannot be aborted.
  void abort(const std::string& reason) noexcept { model_->abort(reason); }

  bool has_board() const noexcept { return model_->has_board(); }
  void post(std::span<const std::byte> bytes) { model_->post(bytes); }
  std::vector<std::byte> peek(Rank rank) { return model_->peek(rank); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual Rank rank() const = 0;
    virtual int size() const = 0;
    virtual void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) = 0;
    virtual std::shared_ptr<Interface> duplicate() = 0;
    virtual bool can_split() const noexcept = 0;
    virtual std::shared_ptr<Interface> split(SplitPlace place) = 0;
    virtual void abort(const std::string& reason) noexcept = 0;
    virtual bool has_board() const noexcept = 0;
    virtual void post(std::span<const std::byte> bytes) = 0;
    virtual std::vector<std::byte> peek(Rank rank) = 0;
  };

  template <class E>
  struct Model final : Interface {
    explicit Model(E e) : exchange{std::move(e)} {}

    Rank rank() const override { return exchange.rank(); }
    int size() const override { return exchange.size(); }
    void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
      exchange.all_gather(mine, all);
    }
    std::shared_ptr<Interface> duplicate() override {
      if constexpr (DuplicatesExchange<E>) {
        return std::make_shared<Model>(exchange.duplicate());
      } else {
        return nullptr;
      }
    }
    bool can_split() const noexcept override { return SplitsExchange<E>; }
    std::shared_ptr<Interface> split([[maybe_unused]] SplitPlace place) override {
      if constexpr (SplitsExchange<E>) {
        return std::make_shared<Model>(exchange.split(place));
      } else {
        throw_configuration_error("this exchange of bytes cannot be split, and so no communicator that has it");
      }
    }
    void abort(const std::string& reason) noexcept override {
      if constexpr (AbortsExchange<E>) exchange.abort(reason);
    }
    bool has_board() const noexcept override { return PostsToBoard<E>; }
    void post(std::span<const std::byte> bytes) override {
      if constexpr (PostsToBoard<E>) exchange.post(bytes);
    }
    std::vector<std::byte> peek(Rank rank) override {
      if constexpr (PostsToBoard<E>) {
        return exchange.peek(rank);
      } else {
        return {};
      }
    }

    E exchange;
  };

  explicit AnyExchange(std::shared_ptr<Interface> model) noexcept : model_{std::move(model)} {}

  std::shared_ptr<Interface> model_;
};

}  // namespace zerospan::inline v0::detail
