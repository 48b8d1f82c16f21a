# What zerospan's own tests, examples and benchmarks are built with. None of it reaches a consumer.

set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_COMPILE_WARNING_AS_ERROR ON)

add_library(zerospan_development INTERFACE)
target_link_libraries(zerospan_development INTERFACE zerospan::zerospan)
foreach(part IN LISTS ZEROSPAN_PARTS)
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
