// SPDX-License-Identifier: Apache-2.0
// The sums of a launch: a row for each place in the code, kind of instruction and buffer, and the distinct sectors.
//
// Each worker has its own Tally, so that counting needs no lock; sums do not depend on who ran which block.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "emulator/checked/findings.h"
#include "emulator/checked/request.h"
#include "emulator/checked/requests.h"

namespace pab_emu {

namespace {

struct Row {
  u32 number = 0, label = 0;  // of the instruction
  u32 buffer = kNoMemory;
  u32 next = 0;  // further row of the same instruction, for another buffer; 0: none
  u64 requests = 0, lanes = 0, sectors = 0, ideal_sectors = 0, wavefronts = 0, ideal_wavefronts = 0, addresses = 0;
};

// Sectors of one buffer that a launch touched, of all workers.
class Touched {
 public:
  ~Touched() { std::free(bits_.load()); }
  void add(u64 sector, u64 sectors) {
    std::atomic<u64>& word = bits(sectors)[sector / 64];
    const u64 bit = u64{1} << sector % 64;
    if (!(word.fetch_or(bit, std::memory_order_relaxed) & bit)) count_.fetch_add(1, std::memory_order_relaxed);
  }
  u64 count() const { return count_; }

 private:
  std::atomic<u64>* bits(u64 sectors) {
    std::atomic<u64>* now = bits_.load(std::memory_order_acquire);
    if (now) return now;
    auto* fresh = static_cast<std::atomic<u64>*>(std::calloc(sectors / 64 + 1, sizeof(u64)));
    if (!fresh) throw std::bad_alloc();
    if (bits_.compare_exchange_strong(now, fresh)) return fresh;
    std::free(fresh);
    return now;
  }
  std::atomic<std::atomic<u64>*> bits_{nullptr};
  std::atomic<u64> count_{0};
};

struct TouchedBuffer {
  Touched loaded, stored;
};

// Matrix products of one shape within one region.
struct Products {
  const char* shape;
  u32 region;
  u64 count;
};

class Tally {
 public:
  Tally(const Request& request, TouchedBuffer* touched, u64 shared_base, u64 shared_bytes, u64 stack_base,
        u64 stack_bytes)
      : request_(request), touched_(touched), shared_base_(shared_base), shared_bytes_(shared_bytes),
        stack_base_(stack_base), stack_bytes_(stack_bytes), slots_(1024), rows_(1), shadows_(request.buffer_count),
        numbered_(kNumbered) {}

  // The number of an instruction, see log.h; the same for the same.
  u32 number(u64 what) {
    u32& slot = slots_[slot_of(what)];
    if (slot) return slot - 1;
    if (seen_.size() == kMostNumbers) throw std::length_error("more than 65536 instructions and regions");
    seen_.push_back({what, 0});
    slot = static_cast<u32>(seen_.size());
    if (seen_.size() * 2 > slots_.size()) grow();
    return static_cast<u32>(seen_.size() - 1);
  }
  u64 what(u32 number) const { return seen_[number].what; }
  Numbered* numbered() { return numbered_.data(); }

  // One instruction of a warp.
  void add(u32 number, const Group& group) {
    const u32 label = label_of(what(number));
    if (!touches_memory(instruction_of(label))) {
      Row& row = row_of(number, kNoMemory);
      ++row.requests;
      row.lanes += group.count;
      return;
    }
    if (!add_within(number, group, group.low, group.high + bytes_of(label), 1)) add_parts(number, group);
  }
  // The same of a whole warp that names one address in shared memory, which most requests do; false: elsewhere.
  bool add_uniform(u32 number, u64 address) {
    const u32 label = label_of(what(number));
    if (!touches_memory(instruction_of(label)) || !shared(address, address + bytes_of(label))) return false;
    add_shared(row_of(number, kSharedMemory), kWarpSize, all_at_once(bytes_of(label)), 1, 1);
    return true;
  }

  void add_products(const char* shape, u32 region) {
    for (Products& known : products_) {
      if (known.shape == shape && known.region == region) {
        ++known.count;
        return;
      }
    }
    products_.push_back({shape, region, 1});
  }

  // The number of a region; the names are literals of the kernel, so that their addresses tell them apart.
  u32 region(const char* name) {
    if (!*name) return 0;
    for (u32 i = 1; i < regions_.size(); ++i) {
      if (regions_[i] == name) return i;
    }
    if (regions_.size() > 255) throw std::length_error("more than 255 regions");
    regions_.push_back(name);
    return static_cast<u32>(regions_.size() - 1);
  }

  const std::vector<Row>& rows() const { return rows_; }  // from 1 on
  const std::vector<const char*>& regions() const { return regions_; }
  const std::vector<Products>& products() const { return products_; }

 private:
  static constexpr u32 kMostNumbers = 1u << (64 - kLabelShift);
  struct Seen {
    u64 what;
    u32 row;  // the first; 0: none
  };
  struct Shadow {
    Stamps loaded, stored;
  };

  // Adds a request whose addresses all lie in [low, end).  False: no single buffer holds them.
  bool add_within(u32 number, const Group& group, u64 low, u64 end, u32 requests) {
    if (shared(low, end)) {
      Row& row = row_of(number, kSharedMemory);
      shared_words_.reserve(shared_bytes_ / kBankBytes + 1);
      const Wavefronts found =
          wavefronts(group, shared_base_, bytes_of(row.label), shared_words_, [this] { return ++stamp_; });
      add_shared(row, group.count, found, requests,
                 is_atomic(instruction_of(row.label)) ? distinct_addresses(group) : 0);
      return true;
    }
    if (low >= stack_base_ && end <= stack_base_ + stack_bytes_) return true;  // a thread's own variables
    const Buffer* buffer = last_;
    if (!buffer || low < buffer->base || end > buffer->base + buffer->bytes) {
      buffer = buffer_before(request_, low);
      if (!buffer || end > buffer->base + buffer->bytes) return false;
      last_ = buffer;
    }
    add_global(row_of(number, buffer->number), *buffer, group, requests);
    return true;
  }

  // A request over several buffers counts as one, of the buffer of its lowest lane.
  void add_parts(u32 number, const Group& group) {
    const u32 bytes = bytes_of(label_of(what(number)));
    u32 requests = 1;
    for (u32 i = 0; i < group.count; ++i) {
      Group one;
      one.clear();
      one.add(group.lanes[i], group.addresses[i]);
      // what is in no buffer is a constant of the kernel file
      if (add_within(number, one, one.addresses[0], one.addresses[0] + bytes, requests)) requests = 0;
    }
  }

  bool shared(u64 low, u64 end) const { return low >= shared_base_ && end <= shared_base_ + shared_bytes_; }

  // `addresses`: the different ones, of an atomic operation.
  void add_shared(Row& row, u32 lanes, Wavefronts found, u32 requests, u32 addresses) {
    row.requests += requests;
    row.lanes += lanes;
    row.wavefronts += found.needed;
    row.ideal_wavefronts += found.ideal;
    if (is_atomic(instruction_of(row.label))) row.addresses += addresses;
  }

  void add_global(Row& row, const Buffer& buffer, const Group& group, u32 requests) {
    const u32 bytes = bytes_of(row.label);
    const Instruction what = instruction_of(row.label);
    const u64 place = static_cast<u64>(&buffer - request_.buffers), all = buffer.bytes / kSectorBytes + 1;
    const bool writes = what == Instruction::store || is_atomic(what);
    Stamps& stamps = writes ? shadows_[place].stored : shadows_[place].loaded;
    stamps.reserve(all);
    const u32 stamp = ++stamp_;
    u32 sectors = 0;
    each_sector(group, buffer.base, [&](u64 sector) {
      const u32 before = stamps.replace(sector, stamp);
      if (before == stamp) return;
      ++sectors;
      if (before) return;
      if (writes) touched_[place].stored.add(sector, all);
      if (!writes || is_atomic(what)) touched_[place].loaded.add(sector, all);
    });
    row.requests += requests;
    row.lanes += group.count;
    row.sectors += sectors;
    // lanes that ask for the same bytes can make it less than the bytes asked for
    row.ideal_sectors += std::min(sectors, (group.count * bytes + kSectorBytes - 1) / kSectorBytes);
    if (is_atomic(what)) row.addresses += distinct_addresses(group);
  }

  Row& row_of(u32 number, u32 buffer) {
    for (u32 at = seen_[number].row; at; at = rows_[at].next) {
      if (rows_[at].buffer == buffer) return rows_[at];
    }
    Row fresh;
    fresh.number = number;
    fresh.label = label_of(what(number));
    fresh.buffer = buffer;
    fresh.next = seen_[number].row;
    seen_[number].row = static_cast<u32>(rows_.size());
    rows_.push_back(fresh);
    return rows_.back();
  }
  std::size_t slot_of(u64 what) const {
    std::size_t at = (what * 0x9E3779B97F4A7C15ull) >> 40;
    for (;; ++at) {
      at &= slots_.size() - 1;
      if (!slots_[at] || seen_[slots_[at] - 1].what == what) return at;
    }
  }
  void grow() {
    slots_.assign(slots_.size() * 2, 0);
    for (u32 i = 0; i < seen_.size(); ++i) slots_[slot_of(seen_[i].what)] = i + 1;
  }

  const Request& request_;
  TouchedBuffer* touched_;
  u64 shared_base_, shared_bytes_, stack_base_, stack_bytes_;
  const Buffer* last_ = nullptr;  // the one hit last: most requests hit it again
  u32 stamp_ = 0;
  std::vector<Seen> seen_;  // instructions by number
  std::vector<u32> slots_;  // a hash table of their numbers + 1; 0: free
  std::vector<Row> rows_;
  std::vector<Shadow> shadows_;
  std::vector<Numbered> numbered_;
  Stamps shared_words_;
  std::vector<const char*> regions_{""};
  std::vector<Products> products_;
};

}  // namespace

}  // namespace pab_emu
