/// @file
/// Preloaded, an OpenBLAS that does not know the processor: it has the kernels that OPENBLAS_CORETYPE asks for, and
/// else those for Prescott. Where OLD_OPENBLAS_STAYS is set, it has no others.
#include <cstdlib>

extern "C" char* openblas_get_corename() {
  static char oldest[] = "Prescott";
  char* const asked = std::getenv("OPENBLAS_CORETYPE");
  return asked && !std::getenv("OLD_OPENBLAS_STAYS") ? asked : oldest;
}
