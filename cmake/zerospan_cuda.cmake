# The CUDA language, for zerospan's own tests, examples and benchmarks: ZEROSPAN_USES_CUDA says whether there is a
# compiler, and zerospan_cuda_development is what its code is built with. Consumers choose their own compiler and options.

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES "80-real;90" CACHE STRING "Architectures of zerospan's own CUDA programs; 90 alone has PTX")
endif()
find_package(CUDAToolkit QUIET)
if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX} AND CUDAToolkit_NVCC_EXECUTABLE)
  set(ENV{CUDACXX} "${CUDAToolkit_NVCC_EXECUTABLE}")  # the toolkit may be found where no path leads
endif()

include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(NOT ZEROSPAN_WITH_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "ZEROSPAN_WITH_CUDA is ${ZEROSPAN_WITH_CUDA}, but no CUDA compiler works here")
  endif()
  message(STATUS "CUDA tests, examples and benchmarks are left out: no CUDA compiler works here")
  return()
endif()
enable_language(CUDA)
set(ZEROSPAN_USES_CUDA ON)
set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)

# CMake before 3.26 does not know that nvcc has C++20. Not -Wpedantic: what nvcc generates is not pedantic.
add_library(zerospan_cuda_development INTERFACE)
target_link_libraries(zerospan_cuda_development INTERFACE zerospan_development zerospan::cuda)
target_compile_options(zerospan_cuda_development INTERFACE
  "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20$<SEMICOLON>-Xcompiler=-Wall,-Wextra,-Wconversion,-Wshadow>")
