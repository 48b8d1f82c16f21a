/// @file
/// How the examples read and write their disks.
#pragma once

#include <zerospan/io/any_io_engine.hpp>
#include <zerospan/io/threaded_io_engine.hpp>

#if defined(ZEROSPAN_HAS_URING)
#include <zerospan/io/uring_engine.hpp>
#endif
#if defined(ZEROSPAN_HAS_LIBAIO)
#include <zerospan/io/libaio_engine.hpp>
#endif

namespace gpt {

/// The first of those that were built in which the system does not refuse. On some disks Linux ends libaio's direct
/// writes on threads of its own, which wait for a core while all of them compute; io_uring's end where they were handed
/// over.
inline zerospan::AnyIoEngine make_io_engine() {
  return zerospan::AnyIoEngine::first_of<
#if defined(ZEROSPAN_HAS_URING)
      zerospan::UringEngine,
#endif
#if defined(ZEROSPAN_HAS_LIBAIO)
      zerospan::LibaioEngine,
#endif
      zerospan::ThreadedIoEngine>();
}

}  // namespace gpt
