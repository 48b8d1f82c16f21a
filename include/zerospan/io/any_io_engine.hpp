/// @file
/// AnyIoEngine: an I/O engine that is chosen at run time.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <utility>

#include <zerospan/core/config.hpp>
#include <zerospan/core/error.hpp>
#include <zerospan/io/io_engine.hpp>

namespace zerospan::inline v0 {

/// Has an engine of any type: tiers over it are compiled once, whichever it is. One virtual call a request.
/// @code
/// auto io = zerospan::AnyIoEngine::first_of<zerospan::UringEngine, zerospan::ThreadedIoEngine>();
/// @endcode
class AnyIoEngine {
 public:
  /// @param type Of the engine: `std::in_place_type<ThreadedIoEngine>`.
  /// @param arguments What it is made of.
  template <IoEngine E, class... Arguments>
  explicit AnyIoEngine(std::in_place_type_t<E> type, Arguments&&... arguments)
      : model_{std::make_unique<Model<E>>(type, std::forward<Arguments>(arguments)...)} {}

  AnyIoEngine(const AnyIoEngine&) = delete;
  AnyIoEngine& operator=(const AnyIoEngine&) = delete;
  ~AnyIoEngine() = default;

  /// An engine of the first type of which one can be made here: kernels and sandboxes refuse some.
  /// @throws ConfigurationError of the last, if there is none.
  template <IoEngine First, IoEngine... Others>
  static AnyIoEngine first_of() {
    return AnyIoEngine{make_first<First, Others...>()};
  }

  void submit(const IoRequest& request, IoCallback callback) { model_->submit(request, std::move(callback)); }
  std::size_t queue_depth() const { return model_->queue_depth(); }
  std::string_view name() const { return model_->name(); }

 private:
  struct Interface {
    virtual ~Interface() = default;
    virtual void submit(const IoRequest& request, IoCallback callback) = 0;
    virtual std::size_t queue_depth() = 0;
    virtual std::string_view name() = 0;
  };

  template <class E>
  struct Model final : Interface {
    template <class... Arguments>
    explicit Model(std::in_place_type_t<E>, Arguments&&... arguments) : engine(std::forward<Arguments>(arguments)...) {}

    void submit(const IoRequest& request, IoCallback callback) override {
      engine.submit(request, std::move(callback));
    }
    std::size_t queue_depth() override { return engine.queue_depth(); }
    std::string_view name() override { return engine.name(); }

    E engine;
  };

  explicit AnyIoEngine(std::unique_ptr<Interface> model) : model_{std::move(model)} {}

  template <class First, class... Others>
  static std::unique_ptr<Interface> make_first() {
    if constexpr (sizeof...(Others) == 0) {
      return std::make_unique<Model<First>>(std::in_place_type<First>);
    } else {
      try {
        return std::make_unique<Model<First>>(std::in_place_type<First>);
      } catch (const ConfigurationError&) {
        return make_first<Others...>();
      }
    }
  }

  std::unique_ptr<Interface> model_;
};

static_assert(IoEngine<AnyIoEngine>);

}  // namespace zerospan::inline v0
