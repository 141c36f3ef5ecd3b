// SPDX-License-Identifier: Apache-2.0
// Findings of a checked launch: collected by place, so that one fault in a loop is one finding with a count.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "emulator/worker.h"

namespace pab_emu {

namespace {

constexpr u32 kSharedMemory = ~0u;  // Access::buffer of shared memory
constexpr u32 kNoMemory = ~0u - 1;  // of an address in no buffer, and of findings that concern none

// Who did what where: one side of a finding.
struct Party {
  const void* pc = nullptr;  // return address into the kernel
  Dim3 block, thread;
  std::string action;  // "read", "write", "atomic operation", "barrier 1", ...
};

inline std::tuple<u32, u32, u32, u32, u32, u32, const void*> rank(const Party& p) {
  return {p.block.z, p.block.y, p.block.x, p.thread.z, p.thread.y, p.thread.x, p.pc};
}
inline bool before(const Party& a, const Party& b) { return rank(a) < rank(b); }

struct Finding {
  const char* check = "";  // memory, init, race, sync
  std::string text;        // what happened, in words, without the place
  Party at;
  bool has_other = false;  // a race: the access before
  Party other;
  std::vector<Party> waiting;  // a deadlock: a thread of each group that waits, and for what
  u32 buffer = kNoMemory;
  u64 offset = 0;  // within the buffer or shared memory, in bytes; for kNoMemory the address
  u32 bytes = 0;
  u64 count = 1;
};

class Findings {
 public:
  static constexpr std::size_t kMost = 4096;  // distinct ones that are kept

  // Adds a finding or counts it; of several alike the one of the lowest block and thread is told.
  void add(Finding finding) {
    std::lock_guard<std::mutex> lock(mutex_);
    ++total_;
    const Key key{finding.check, finding.at.pc, finding.has_other ? finding.other.pc : nullptr, finding.buffer};
    const auto found = kept_.find(key);
    if (found == kept_.end()) {
      if (kept_.size() < kMost) kept_.emplace(key, std::move(finding));
      return;
    }
    // how many pairs of a race are seen depends on the order of things
    const u64 count = finding.has_other ? 1 : found->second.count + 1;
    if (first(finding, found->second)) found->second = std::move(finding);
    found->second.count = count;
  }

  bool empty() const { return kept_.empty(); }

  // A JSON array; code places are file + offset, for the caller to look up.
  std::string json() const {
    std::string text = "[";
    for (const auto& [key, f] : kept_) {
      if (only_a_race(f)) continue;
      if (text.size() > 1) text += ',';
      text += "{\"check\":\"" + std::string(f.check) + "\",\"text\":" + quoted(f.text) + ",\"at\":" + party(f.at);
      if (f.has_other) text += ",\"other\":" + party(f.other);
      if (!f.waiting.empty()) {
        text += ",\"waiting\":[";
        for (std::size_t i = 0; i < f.waiting.size(); ++i) text += (i ? "," : "") + party(f.waiting[i]);
        text += ']';
      }
      char part[160];
      std::snprintf(part, sizeof part, ",\"buffer\":%lld,\"offset\":%llu,\"bytes\":%u,\"count\":%llu}",
                    f.buffer == kSharedMemory ? -1LL : f.buffer == kNoMemory ? -2LL : static_cast<long long>(f.buffer),
                    static_cast<unsigned long long>(f.offset), f.bytes, static_cast<unsigned long long>(f.count));
      text += part;
    }
    return text + "]";
  }
  u64 total() const { return total_; }

  static std::string quoted(const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') out += '\\';
      out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    return out + '"';
  }
  // {"module": path, "offset": n} of a return address: n lies within the call before it.
  static std::string place(const void* pc) {
    Dl_info info;
    char part[64];
    if (!pc || !dladdr(pc, &info) || !info.dli_fname) return "{\"module\":\"\",\"offset\":0}";
    const u64 offset = reinterpret_cast<u64>(pc) - reinterpret_cast<u64>(info.dli_fbase) - 1;
    std::snprintf(part, sizeof part, ",\"offset\":%llu}", static_cast<unsigned long long>(offset));
    return "{\"module\":" + quoted(info.dli_fname) + part;
  }

 private:
  using Key = std::tuple<std::string, const void*, const void*, u32>;

  static bool first(const Finding& a, const Finding& b) {
    return std::tuple{rank(a.at), rank(a.other), a.offset} < std::tuple{rank(b.at), rank(b.other), b.offset};
  }

  // Whether what a read missed depends on a race: what it finds unwritten is then a matter of who came first.
  bool only_a_race(const Finding& f) const {
    if (std::string_view(f.check) != "init") return false;
    return std::any_of(kept_.begin(), kept_.end(), [&f](const auto& one) {
      const Finding& race = one.second;
      return race.has_other && race.buffer == f.buffer && (race.at.pc == f.at.pc || race.other.pc == f.at.pc);
    });
  }
  static std::string party(const Party& p) {
    char part[160];
    std::snprintf(part, sizeof part, ",\"block\":[%u,%u,%u],\"thread\":[%u,%u,%u],\"place\":", p.block.x,
                  p.block.y, p.block.z, p.thread.x, p.thread.y, p.thread.z);
    return "{\"action\":" + quoted(p.action) + part + place(p.pc) + "}";
  }

  std::mutex mutex_;
  std::map<Key, Finding> kept_;
  u64 total_ = 0;
};

}  // namespace

}  // namespace pab_emu
