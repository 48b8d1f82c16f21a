/// @file
/// Products in bf16 by oneDNN.
#include <dlfcn.h>

#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>

#include <oneapi/dnnl/dnnl.hpp>

#include "bf16_products.hpp"

namespace gpt {

namespace {

using dnnl::memory;

memory::desc description(Factor<BFloat16> factor) {
  const auto rows = static_cast<memory::dim>(factor.matrix.rows);
  const auto columns = static_cast<memory::dim>(factor.matrix.columns);
  const auto stride = static_cast<memory::dim>(factor.matrix.stride);
  if (factor.order == Order::straight) return {{rows, columns}, memory::data_type::bf16, {stride, 1}};
  return {{columns, rows}, memory::data_type::bf16, {1, stride}};
}

template <class C>
memory::desc description(Tensor<C> result) {
  constexpr auto type = std::is_same_v<C, float> ? memory::data_type::f32 : memory::data_type::bf16;
  return {{static_cast<memory::dim>(result.rows), static_cast<memory::dim>(result.columns)},
          type,
          {static_cast<memory::dim>(result.stride), 1}};
}

/// oneDNN's threads are OpenMP's, of which each thread that calls has as many as it says. Its library is loaded with
/// oneDNN's.
void set_threads(int threads) {
  static const auto set = reinterpret_cast<void (*)(int)>(::dlsym(RTLD_DEFAULT, "omp_set_num_threads"));
  if (set) set(threads);
}

}  // namespace

/// The products that were compiled so far.
class Bf16Products::Shapes {
 public:
  explicit Shapes(int threads) : threads_{threads} {}

  template <class C>
  void multiply(Factor<BFloat16> a, Factor<BFloat16> b, Tensor<C> c, Assignment assignment) {
    set_threads(threads_);
    const Key key{a.order,
                  b.order,
                  c.rows,
                  c.columns,
                  a.order == Order::straight ? a.matrix.columns : a.matrix.rows,
                  a.matrix.stride,
                  b.matrix.stride,
                  c.stride,
                  std::is_same_v<C, float>,
                  assignment};
    auto found = compiled_.find(key);
    if (found == compiled_.end()) found = compiled_.emplace(key, compile(a, b, c, assignment)).first;
    Compiled& product = found->second;
    product.a.set_data_handle(const_cast<BFloat16*>(a.matrix.data));
    product.b.set_data_handle(const_cast<BFloat16*>(b.matrix.data));
    product.c.set_data_handle(c.data);
    product.run.execute(stream_, {{DNNL_ARG_SRC, product.a}, {DNNL_ARG_WEIGHTS, product.b}, {DNNL_ARG_DST, product.c}});
    stream_.wait();
  }

 private:
  using Key = std::tuple<Order, Order, std::size_t, std::size_t, std::size_t, std::size_t, std::size_t, std::size_t,
                         bool, Assignment>;

  struct Compiled {
    dnnl::matmul run;
    memory a;
    memory b;
    memory c;
  };

  template <class C>
  Compiled compile(Factor<BFloat16> a, Factor<BFloat16> b, Tensor<C> c, Assignment assignment) {
    dnnl::primitive_attr attributes;
    if (assignment == Assignment::add) {
      dnnl::post_ops sum;
      sum.append_sum(1.0F);
      attributes.set_post_ops(sum);
    }
#if DNNL_VERSION_MAJOR < 3
    const dnnl::matmul::primitive_desc product{{description(a), description(b), description(c)}, attributes, engine_};
#else
    const dnnl::matmul::primitive_desc product{engine_, description(a), description(b), description(c), attributes};
#endif
    return {dnnl::matmul{product}, memory{description(a), engine_, nullptr}, memory{description(b), engine_, nullptr},
            memory{description(c), engine_, nullptr}};
  }

  int threads_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  std::map<Key, Compiled> compiled_;
};

std::string Bf16Products::instructions() {
  const auto has = [all = static_cast<unsigned>(dnnl::get_effective_cpu_isa())](dnnl::cpu_isa isa) {
    return (all & static_cast<unsigned>(isa)) == static_cast<unsigned>(isa);  // each has the bits of those before it
  };
  if (has(dnnl::cpu_isa::avx512_core_amx)) return "AMX";
  return has(dnnl::cpu_isa::avx512_core_bf16) ? "AVX512_BF16" : "";
}

Bf16Products::Bf16Products(int threads) : shapes_{std::make_unique<Shapes>(threads)} {}
Bf16Products::Bf16Products(Bf16Products&&) noexcept = default;
Bf16Products& Bf16Products::operator=(Bf16Products&&) noexcept = default;
Bf16Products::~Bf16Products() = default;

void Bf16Products::multiply(Factor<BFloat16> a, Factor<BFloat16> b, Tensor<float> c, Assignment assignment) {
  shapes_->multiply(a, b, c, assignment);
}

void Bf16Products::multiply(Factor<BFloat16> a, Factor<BFloat16> b, Tensor<BFloat16> c) {
  shapes_->multiply(a, b, c, Assignment::replace);
}

}  // namespace gpt
