/// @file
/// What a program without MPI says when it is to measure links.
#include <optional>

#include <zerospan/core/error.hpp>

#include "../measure_host_links.hpp"

namespace machine {

std::optional<HostLinks> measure_host_links(int, char**, const LinkOptions&) {
  zerospan::throw_configuration_error(
      "this program was built without MPI, and measures no links: configure with -DZEROSPAN_WITH_MPI=ON");
}

}  // namespace machine
