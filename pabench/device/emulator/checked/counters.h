// SPDX-License-Identifier: Apache-2.0
// The counters of a checked launch: the events of observers.h on one side, the sums as JSON on the other.
#pragma once

#include "emulator/checked/grouping.h"

namespace pab_emu {

namespace {

void resume(Context* from, Lane* to);
void spend_steps(Lane& lane, u64 count, const void* pc);  // of the block's budget, at once; see sync.h

// What one worker counts during one launch.
struct Counters {
  Counters(const Request& request, TouchedBuffer* touched, const Worker& w)
      : tally(request, touched, reinterpret_cast<u64>(w.shared.get()), w.shared_capacity,
              reinterpret_cast<u64>(w.stacks), w.capacity * (kStackBytes + kGuardBytes)),
        grouping(tally) {}
  Tally tally;
  Grouping grouping;
};

// The counters of all workers.
class LaunchCounters {
 public:
  explicit LaunchCounters(const Request& request) : request_(request), number_(++launches_) {}

  u64 number() const { return number_; }  // of the launch
  u32 checks() const { return request_.checks; }

  Counters* join(const Worker& w) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!touched_) touched_ = std::make_unique<TouchedBuffer[]>(request_.buffer_count + 1);
    workers_.push_back(std::make_unique<Counters>(request_, touched_.get(), w));
    return workers_.back().get();
  }

  // {"rows": [...], "products": [...], "touched": [...]}; code places are for the caller to look up.
  std::string json() const {
    using Key = std::tuple<u64, u32, u32, std::string>;
    std::map<Key, Row> sums;
    std::map<std::tuple<std::string, std::string>, u64> products;
    for (const auto& worker : workers_) {
      const Tally& tally = worker->tally;
      for (std::size_t i = 1; i < tally.rows().size(); ++i) {
        const Row& row = tally.rows()[i];
        // a region's number is the worker's own
        const u64 what = tally.what(row.number);
        const u32 label = label_of(what) & ((1u << kRegionShift) - 1);
        Row& sum = sums[{place_of(what), label, row.buffer, tally.regions()[region_of(label_of(what))]}];
        sum.requests += row.requests;
        sum.lanes += row.lanes;
        sum.sectors += row.sectors;
        sum.ideal_sectors += row.ideal_sectors;
        sum.wavefronts += row.wavefronts;
        sum.ideal_wavefronts += row.ideal_wavefronts;
        sum.addresses += row.addresses;
      }
      for (const Products& one : tally.products()) {
        products[{one.shape, tally.regions()[one.region]}] += one.count;
      }
    }
    std::string text = "{\"rows\":[";
    for (const auto& [key, sum] : sums) {
      const auto& [pc, label, buffer, region] = key;
      if (text.back() != '[') text += ',';
      text += "{\"place\":" + Findings::place(reinterpret_cast<const void*>(pc)) + ",\"event\":\"" +
              kInstructionNames[static_cast<u32>(instruction_of(label))] + "\",\"region\":" + Findings::quoted(region);
      text += ",\"memory\":" + std::string(buffer == kSharedMemory ? "-1" : buffer == kNoMemory ? "-2" :
                                                                            std::to_string(buffer));
      text += ",\"access_bytes\":" + std::to_string(touches_memory(instruction_of(label)) ? bytes_of(label) : 0);
      const std::pair<const char*, u64> figures[] = {
          {"requests", sum.requests},     {"lanes", sum.lanes},
          {"sectors", sum.sectors},       {"ideal_sectors", sum.ideal_sectors},
          {"wavefronts", sum.wavefronts}, {"ideal_wavefronts", sum.ideal_wavefronts},
          {"addresses", sum.addresses}};
      for (const auto& [name, value] : figures) text += ",\"" + std::string(name) + "\":" + std::to_string(value);
      text += '}';
    }
    text += "],\"products\":[";
    for (const auto& [key, count] : products) {
      if (text.back() != '[') text += ',';
      text += "{\"shape\":" + Findings::quoted(std::get<0>(key)) + ",\"region\":" +
              Findings::quoted(std::get<1>(key)) + ",\"count\":" + std::to_string(count) + '}';
    }
    text += "],\"touched\":[";
    for (u32 i = 0; touched_ && i < request_.buffer_count; ++i) {
      const u64 loaded = touched_[i].loaded.count(), stored = touched_[i].stored.count();
      if (!loaded && !stored) continue;
      if (text.back() != '[') text += ',';
      text += "{\"memory\":" + std::to_string(request_.buffers[i].number) + ",\"loaded\":" + std::to_string(loaded) +
              ",\"stored\":" + std::to_string(stored) + '}';
    }
    return text + "]}";
  }

 private:
  static inline std::atomic<u64> launches_{0};

  const Request& request_;
  u64 number_;
  std::mutex mutex_;
  std::unique_ptr<TouchedBuffer[]> touched_;  // by position in the request
  std::vector<std::unique_ptr<Counters>> workers_;
};

}  // namespace

namespace counters {

namespace {

inline void close(Warp& warp) {
  try {
    worker->counters->grouping.close(warp);
  } catch (const std::exception& error) {
    fault("the counters lack memory: %s", error.what());
  }
}

// Gives the lanes of a block their logs, when the launch is counted.
inline void begin_block(Worker& w, LaunchCounters& all) {
  const bool counting = all.checks() & kCount;
  if (counting && w.counted != all.number()) {
    w.counters = all.join(w);
    w.counted = all.number();
    if (!w.log) w.log.reset(new u64[static_cast<std::size_t>(w.capacity) * kLogStride]);
  }
  for (u32 i = 0; i < w.threads; ++i) {
    Lane& lane = w.lanes[i];
    lane.watch = counting ? all.checks() : 0;
    if (!counting) continue;
    lane.log_begin = lane.log_next = w.log.get() + static_cast<std::size_t>(i) * kLogStride;
    lane.log_end = lane.log_begin + kLogEntries;
    lane.numbered = w.counters->tally.numbered();
    lane.region = 0;
  }
}

// All lanes that exist have left, or are named and have come: none can add to what is open.  A mask that leaves
// out lanes closes nothing, whether they have left or not: that would depend on the order in which lanes run.
inline void collective_complete(Warp& warp, u32 mask) {
  const u32 exists = warp.count == kWarpSize ? ~0u : (1u << warp.count) - 1;
  if ((warp.lanes[__builtin_ctz(mask)]->mask & exists) == exists) close(warp);
}

// The same at a barrier of all threads; at one of a number of threads, for the warps that wait there whole.
inline void barrier_release(Worker& w, u32 id) {
  for (Warp& warp : w.warps) {
    const u32 exists = warp.count == kWarpSize ? ~0u : (1u << warp.count) - 1;
    if (w.barrier_expected[id] == kAllThreads || warp.waiting[id] == exists) close(warp);
  }
}

inline void lane_exit(Lane& me) {
  if ((me.warp->finished | 1u << me.index) == ~0u) close(*me.warp);
}

}  // namespace

}  // namespace counters

namespace {

void number_instruction(Numbered& slot, u64 what) {
  try {
    slot.number = u64{worker->counters->tally.number(what)} << kLabelShift;
    slot.what = what;
  } catch (const std::exception& error) {
    fault("the counters cannot number an instruction: %s", error.what());
  }
}

// Lets the other lanes of the warp come as far as they can, then counts what all have done.  Occurrences start
// anew for each lane after as many entries of its own.
void log_full(Lane& me) {
  Warp& warp = *me.warp;
  if (me.watch == kCount) {
    const u64 last = worker->counters->tally.what(number_of(me.log_next[-1]));
    spend_steps(me, kLogEntries, reinterpret_cast<const void*>(place_of(last)));
  }
  while (me.log_next == me.log_end) {
    Lane* behind = nullptr;
    for (u32 rest = warp.runnable & ~(1u << me.index); rest && !behind; rest &= rest - 1) {
      Lane& other = *warp.lanes[__builtin_ctz(rest)];
      if (other.log_next != other.log_end) behind = &other;
    }
    if (!behind) return counters::close(warp);
    resume(&me.context, behind);
  }
}

}  // namespace

}  // namespace pab_emu
