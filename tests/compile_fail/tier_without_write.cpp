// Expected: this is no OffloadTier; static_assert
#include <string_view>

#include "setting.hpp"

namespace my {

/// A tier that can be read alone.
class Archive {
 public:
  std::string_view name() const;
  std::size_t alignment() const;
  zerospan::Addressable addressable() const;
  void reserve(zerospan::Bytes bytes, std::string_view what);
  void cancel(zerospan::Bytes bytes) noexcept;
  zerospan::Extent place(std::size_t bytes);
  void remove(const zerospan::Extent& extent) noexcept;
  std::byte* view(const zerospan::Extent& extent);
  zerospan::Completion read(const zerospan::Extent& extent, std::size_t offset, std::byte* data, std::size_t bytes);
#if defined(FIXED)
  zerospan::Completion write(const zerospan::Extent& extent, std::size_t offset, const std::byte* data,
                             std::size_t bytes);
#endif
  zerospan::TierCounters counters() const;
};

}  // namespace my

zerospan::Placement place(my::Archive& archive, zerospan::HostTier& host) {
  return {.parameters = archive, .gradients = host, .optimizer = host};
}
