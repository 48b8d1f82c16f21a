# What zerospan's own tests, examples and benchmarks are built with. None of it reaches a consumer.

# tests/run.sh measures nothing, and sets -O1.
set(ZEROSPAN_PROGRAM_OPTIMIZATION "" CACHE STRING "Of the examples and benchmarks, where it is not the build type's")
set(program_options "")
if(ZEROSPAN_PROGRAM_OPTIMIZATION)
  set(program_options "$<$<COMPILE_LANGUAGE:CXX>:${ZEROSPAN_PROGRAM_OPTIMIZATION}>"
    "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=${ZEROSPAN_PROGRAM_OPTIMIZATION}>")
endif()

set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_COMPILE_WARNING_AS_ERROR ON)

add_library(zerospan_development INTERFACE)
target_link_libraries(zerospan_development INTERFACE zerospan::zerospan)
set(parts ${ZEROSPAN_PARTS})
list(REMOVE_ITEM parts torch cuda nccl cufile mpi)  # linked where they are used alone: they are large, and slow to load
foreach(part IN LISTS parts)
  target_link_libraries(zerospan_development INTERFACE zerospan::${part})
endforeach()
target_compile_options(zerospan_development INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall$<SEMICOLON>-Wextra$<SEMICOLON>-Wpedantic$<SEMICOLON>-Wconversion$<SEMICOLON>-Wshadow>)

if(ZEROSPAN_SANITIZER STREQUAL "address")
  set(sanitizers -fsanitize=address,undefined -fno-sanitize-recover=all)
elseif(ZEROSPAN_SANITIZER STREQUAL "thread")
  set(sanitizers -fsanitize=thread)
elseif(NOT ZEROSPAN_SANITIZER STREQUAL "")
  message(FATAL_ERROR "ZEROSPAN_SANITIZER is '${ZEROSPAN_SANITIZER}': it is empty, address or thread")
endif()
if(ZEROSPAN_SANITIZER)
  target_compile_options(zerospan_development INTERFACE ${sanitizers} -fno-omit-frame-pointer)
  target_link_options(zerospan_development INTERFACE ${sanitizers})
endif()

# libtorch 1.13 is C++14: as C++20 its headers compile with GCC, but not with Clang and GCC's library. It is not
# instrumented for sanitizers.
set(ZEROSPAN_USES_TORCH OFF)
if(TARGET zerospan_torch AND NOT ZEROSPAN_SANITIZER AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  set(ZEROSPAN_USES_TORCH ON)
endif()

# Compilers' sanitizers know nothing of what CUDA does.
set(ZEROSPAN_USES_CUDA OFF)
if(TARGET zerospan_cuda AND NOT ZEROSPAN_SANITIZER)
  include(zerospan_cuda)
endif()
