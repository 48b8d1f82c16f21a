// Linked with -Ofast, which has GCC link in what makes every thread flush denormal numbers: it is refused, in words.
#include <cstdio>
#include <cstring>

#include <zerospan/core/detail/floating_point.hpp>
#include <zerospan/core/error.hpp>

int main() {
  try {
    zerospan::detail::check_floating_point_environment();
  } catch (const zerospan::ConfigurationError& error) {
    std::puts(error.what());
    return std::strstr(error.what(), "without -Ofast") ? 0 : 1;
  }
  std::puts("it was not refused");
  return 1;
}
