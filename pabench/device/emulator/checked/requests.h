// SPDX-License-Identifier: Apache-2.0
// What one request of a warp costs: 32-byte sectors of global memory, wavefronts of shared memory.
#pragma once

#include "emulator/checked/log.h"

namespace pab_emu {

namespace {

constexpr u32 kSectorBytes = 32;  // the unit in which L2 is asked
constexpr u32 kBanks = 32, kBankBytes = 4;

// The lanes of one request.
struct Group {
  u32 count = 0;
  u64 low, high;  // the first and the last of the addresses
  u32 lanes[kWarpSize];
  u64 addresses[kWarpSize];

  void clear() {
    count = 0;
    low = ~u64{0};
    high = 0;
  }
  void add(u32 lane, u64 address) {
    lanes[count] = lane;
    addresses[count++] = address;
    low = address < low ? address : low;
    high = address > high ? address : high;
  }
};

// Numbers of what a request touches are stamped with the request's number, which shows repeats at once.
class Stamps {
 public:
  ~Stamps() { std::free(stamps_); }
  Stamps() = default;
  Stamps(Stamps&& other) noexcept : stamps_(std::exchange(other.stamps_, nullptr)) {}
  Stamps& operator=(Stamps&&) = delete;

  // Zeros for `count` numbers; the system gives memory to those that are used only.
  void reserve(u64 count) {
    if (stamps_) return;
    stamps_ = static_cast<u32*>(std::calloc(count + 1, sizeof(u32)));
    if (!stamps_) throw std::bad_alloc();
  }
  // The stamp of `number`, which becomes `stamp`.
  u32 replace(u64 number, u32 stamp) { return std::exchange(stamps_[number], stamp); }

 private:
  u32* stamps_ = nullptr;
};

// Wavefronts of one request to shared memory: there are 32 banks of 4 bytes; lanes that ask for the same word share
// it, different words of one bank go one after the other.  A request of 8 bytes a lane goes by half warps, one of 16
// bytes by quarter warps.  (CUDA C++ Programming Guide, shared memory of compute capability 5.x and later; for the
// wide ones NVIDIA's advice on its developer forums: conflicts are looked for within a half or quarter warp.)
struct Wavefronts {
  u32 needed = 0;  // as asked
  u32 ideal = 0;   // had no two words of a part met in a bank
};

// Of a whole warp that names one address.
constexpr Wavefronts all_at_once(u32 bytes) {
  const u32 parts = bytes <= 4 ? 1 : bytes / 4;
  return {parts, parts};
}

constexpr u32 lanes_together(u32 bytes) { return bytes <= 4 ? kWarpSize : kWarpSize * 4 / bytes; }

template <typename NextStamp>
Wavefronts wavefronts(const Group& group, u64 base, u32 bytes, Stamps& stamps, NextStamp next_stamp) {
  Wavefronts found;
  const u32 part = lanes_together(bytes);
  for (u32 i = 0; i < group.count;) {
    const u32 end = (group.lanes[i] / part + 1) * part, stamp = next_stamp();
    unsigned char words[kBanks] = {};
    u32 most = 1;
    for (; i < group.count && group.lanes[i] < end; ++i) {
      const u64 first = (group.addresses[i] - base) / kBankBytes;
      const u64 last = (group.addresses[i] - base + bytes - 1) / kBankBytes;
      for (u64 word = first; word <= last; ++word) {
        if (stamps.replace(word, stamp) == stamp) continue;
        const u32 inside = ++words[word % kBanks];
        most = inside > most ? inside : most;
      }
    }
    found.needed += most;
    ++found.ideal;
  }
  return found;
}

// Calls visit(sector) for each sector of the buffer at `base` that the request touches, maybe more than once.  A
// lane touches one: what is aligned, as a GPU demands, does not cross into the next.
template <typename Visit>
void each_sector(const Group& group, u64 base, Visit visit) {
  u64 before = ~u64{0};
  for (u32 i = 0; i < group.count; ++i) {
    const u64 sector = (group.addresses[i] - base) / kSectorBytes;
    if (sector != before) visit(sector);
    before = sector;
  }
}

// How many different addresses the lanes name: an atomic operation on one address serialises its lanes.
inline u32 distinct_addresses(const Group& group) {
  u32 count = 0;
  for (u32 i = 0; i < group.count; ++i) {
    u32 j = 0;
    while (group.addresses[j] != group.addresses[i]) ++j;
    count += j == i;
  }
  return count;
}

}  // namespace

}  // namespace pab_emu
