// SPDX-License-Identifier: Apache-2.0
// From the logs of a warp's lanes to its requests: which entries of different lanes are one instruction.
//
// One instruction of a warp is the same place in the code, come to by each lane for the same time since the warp
// last met: (place, occurrence).  It depends on what the lanes did and not on the order in which they ran.
#pragma once

#include <algorithm>
#include <vector>

#include "emulator/checked/tally.h"

namespace pab_emu {

namespace {

class Grouping {
 public:
  explicit Grouping(Tally& tally) : tally_(tally) {}

  // Counts what the logs of `warp` hold and empties them.
  void close(Warp& warp) {
    parts_.clear();
    for (u32 i = 0; i < warp.count; ++i) {
      Lane& lane = *warp.lanes[i];
      const u64 entries = static_cast<u64>(lane.log_next - lane.log_begin);
      if (entries) parts_.push_back({lane.log_begin, static_cast<u32>(entries), i});
      lane.log_next = lane.log_begin;
    }
    u32 at = 0;
    while (!parts_.empty()) {
      u32 stop = parts_[0].entries;
      for (const Part& part : parts_) stop = std::min(stop, part.entries);
      at = in_step(at, stop);
      if (at < stop) return apart(at);
      std::erase_if(parts_, [stop](const Part& part) { return part.entries == stop; });
    }
  }

 private:
  struct Part {
    const u64* log;
    u32 entries, lane;
  };
  // An instruction that lanes come to at different positions of their logs.
  struct Place {
    u32 number, lane = ~0u, seen = 0;  // how often `lane` has been there
    std::vector<u32> groups;           // by occurrence
  };

  // While all lanes do the same, entries of one position are one request: the occurrences are the same.
  // Returns the position where they part, or `stop`.
  u32 in_step(u32 at, u32 stop) {
    const u32 count = static_cast<u32>(parts_.size());
    for (; at < stop; ++at) {
      const u64 first = parts_[0].log[at];
      u64 differ = 0;
      for (u32 i = 1; i < count; ++i) differ |= parts_[i].log[at] ^ first;
      if (differ >> kLabelShift) return at;
      if (!differ && count == kWarpSize && tally_.add_uniform(number_of(first), first & kAddressMask)) continue;
      group_.clear();
      for (const Part& part : parts_) group_.add(part.lane, part.log[at] & kAddressMask);
      tally_.add(number_of(first), group_);
    }
    return at;
  }

  // The general case, from position `at` on.
  void apart(u32 at) {
    places_.clear();
    used_ = 0;
    for (const Part& part : parts_) {
      u32 guess = 0;
      for (u32 i = at; i < part.entries; ++i) {
        const u64 word = part.log[i];
        guess = place_of(number_of(word), guess);
        Place& place = places_[guess];
        if (place.lane != part.lane) {
          place.lane = part.lane;
          place.seen = 0;
        }
        if (place.seen == place.groups.size()) place.groups.push_back(fresh_group());
        Group& group = groups_[place.groups[place.seen++]];
        group.add(part.lane, word & kAddressMask);
      }
    }
    for (const Place& place : places_) {
      for (const u32 number : place.groups) tally_.add(place.number, groups_[number]);
    }
  }

  // A lane goes through the places in nearly the order of the one before: the next one is the first guess.
  u32 place_of(u32 number, u32 guess) {
    const u32 count = static_cast<u32>(places_.size());
    for (u32 step = 0; step < count; ++step) {
      const u32 at = (guess + step) % count;
      if (places_[at].number == number) return at;
    }
    places_.push_back({number, ~0u, 0, {}});
    return count;
  }
  u32 fresh_group() {
    if (used_ == groups_.size()) groups_.emplace_back();
    groups_[used_].clear();
    return used_++;
  }

  Tally& tally_;
  Group group_;
  std::vector<Part> parts_;
  std::vector<Place> places_;
  std::vector<Group> groups_;
  u32 used_ = 0;
};

}  // namespace

}  // namespace pab_emu
