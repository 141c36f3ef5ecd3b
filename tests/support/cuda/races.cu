// SPDX-License-Identifier: Apache-2.0
// Pairs of kernels for racecheck: each wrong one beside a correct look-alike; used by tests/emulator/test_checked_races.py.
#include "pab/intrinsics.cuh"

namespace pab {
PAB_FN u32 last_of_block() { return blockDim.x - 1 - threadIdx.x; }
}  // namespace pab

// How two threads of a block pass a word on through shared memory: 0 nothing between, 1 a warp sync, 2 a barrier.
extern "C" __global__ void pass_on(pab::u32* out, pab::u32 between) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* shared = reinterpret_cast<u32*>(memory);
  shared[threadIdx.x] = threadIdx.x;  // pass on: write
  if (between == 1) warp_sync(kFullMask);
  if (between == 2) block_sync();
  out[blockIdx.x * blockDim.x + threadIdx.x] = shared[last_of_block()];  // pass on: read
}

// A tile that is filled again while others still read it, unless `after`.
extern "C" __global__ void refill(pab::u32* out, pab::u32 after) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* shared = reinterpret_cast<u32*>(memory);
  u32 sum = 0;
  for (u32 round = 0; round < 3; ++round) {
    shared[threadIdx.x] = round;  // refill: write
    block_sync();
    sum += shared[last_of_block()];  // refill: read
    if (after) block_sync();
  }
  out[threadIdx.x] = sum;
}

// Threads that share a word byte by byte: no race.  With `wide` one of them reads all of it.
extern "C" __global__ void neighbours(pab::u16* halves, pab::u8* bytes, pab::u32* words, pab::u32 wide) {
  using namespace pab;
  halves[threadIdx.x] = static_cast<u16>(threadIdx.x);  // neighbours: halves
  halves[threadIdx.x] = static_cast<u16>(halves[threadIdx.x] + 1);
  bytes[threadIdx.x] = static_cast<u8>(threadIdx.x);  // neighbours: bytes
  bytes[threadIdx.x] = static_cast<u8>(bytes[threadIdx.x] + 1);
  if (wide == 1 && threadIdx.x % 2 == 0) words[threadIdx.x / 2] = reinterpret_cast<u32*>(halves)[threadIdx.x / 2];  // wide
  if (wide == 2 && threadIdx.x % 4 == 0) words[threadIdx.x / 4] = reinterpret_cast<u32*>(bytes)[threadIdx.x / 4];  // wider
}

// Lanes of a group of eight meet; their neighbours do not.
extern "C" __global__ void groups(pab::u32* out, pab::u32 distance) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* shared = reinterpret_cast<u32*>(memory);
  const u32 lane = lane_id(), first = lane / 8 * 8;
  for (u32 round = 0; round < 2; ++round) {
    shared[threadIdx.x] = lane + round;
    warp_sync(0xFFu << first);
    out[threadIdx.x] = shared[threadIdx.x - lane + (lane + distance) % 32];  // groups: read
    warp_sync(0xFFu << first);
  }
}

// Lane 31 is not named by the mask: what it wrote is not ordered, whether it has returned by then or not.
extern "C" __global__ void unnamed(pab::u32* out, pab::u32 mask) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* shared = reinterpret_cast<u32*>(memory);
  shared[threadIdx.x] = threadIdx.x;
  if (threadIdx.x == 31) return;
  warp_sync(mask);
  out[threadIdx.x] = shared[31];  // unnamed: read
}

// Warp 0 fills, warp 1 empties, by named barriers; without `empty` it is filled again too early.
extern "C" __global__ void handover(pab::u32* out, pab::u32 empty) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* buffer = reinterpret_cast<u32*>(memory);
  const u32 lane = lane_id();
  for (u32 item = 0; item < 4; ++item) {
    if (threadIdx.x < 32) {
      if (item && empty) bar_sync(5, 64);
      buffer[lane] = item;  // handover: write
      bar_arrive(1 + item, 64);
    } else {
      bar_sync(1 + item, 64);
      out[32 * item + lane] = buffer[31 - lane];  // handover: read
      if (empty && item + 1 < 4) bar_arrive(5, 64);
    }
  }
}

// Arriving orders what was before it, not what comes after.
extern "C" __global__ void after_arrival(pab::u32* out, pab::u32 late) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* buffer = reinterpret_cast<u32*>(memory);
  if (threadIdx.x < 32) {
    if (!late) buffer[threadIdx.x] = 1;
    bar_arrive(1, 64);
    if (late) buffer[threadIdx.x] = 1;  // after arrival: write
  } else {
    bar_sync(1, 64);
    out[threadIdx.x - 32] = buffer[threadIdx.x - 32];  // after arrival: read
  }
}

// The block that comes last adds up what all have written.  `fences`: 1 before the ticket, 2 after it, 4 of the block
// only; 8: by every thread, and the ticket after a barrier.
extern "C" __global__ void last_block(pab::u32* part, pab::u32* ticket, pab::u32* out, pab::u32 fences) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* last = reinterpret_cast<u32*>(memory);
  part[blockIdx.x * blockDim.x + threadIdx.x] = blockIdx.x + 1;  // last block: write
  if (fences & 8) fence_device();
  block_sync();
  if (threadIdx.x == 0) {
    if (fences & 4) fence_block();
    if (fences & 1) fence_device();
    *last = atomic_add(ticket, 1u) == gridDim.x - 1;
    if (fences & 4) fence_block();
    if (fences & 2) fence_device();
  }
  block_sync();
  if (!*last) return;
  if (fences & 8) fence_device();
  u32 sum = 0;
  for (u32 block = 0; block < gridDim.x; ++block) sum += part[block * blockDim.x + threadIdx.x];  // last block: read
  out[threadIdx.x] = sum;
}

// Block b waits for the flag of block b - 1.  `how`: 0 release and acquire, 1 relaxed.
extern "C" __global__ void look_back(pab::u32* flags, pab::u32* sums, pab::u32 how) {
  using namespace pab;
  const u32 b = blockIdx.x;
  if (threadIdx.x) return;
  if (b) {
    while ((how ? atomic_add(flags + b - 1, 0u) : ld_acquire(flags + b - 1)) == 0) {
    }
  }
  sums[b] = (b ? sums[b - 1] : 0) + 1;  // look back: sums
  if (how) {
    atomic_add(flags + b, 1u);
  } else {
    st_release(flags + b, 1);
  }
}

// All blocks meet `rounds` times; each time everybody reads what the neighbour wrote.
extern "C" __global__ void grid_barrier(pab::u32* counter, pab::u32* cells, pab::u32* out, pab::u32 rounds, pab::u32 skip) {
  using namespace pab;
  const u32 b = blockIdx.x, n = gridDim.x;
  for (u32 round = 0; round < rounds; ++round) {
    if (threadIdx.x == 0) cells[b] = b + round;  // grid barrier: write
    for (u32 phase = 0; phase < 2; ++phase) {
      block_sync();
      if (threadIdx.x == 0 && !(skip && phase)) {
        fence_device();
        atomic_add(counter + 2 * round + phase, 1u);
        while (ld_acquire(counter + 2 * round + phase) < n) {
        }
      }
      block_sync();
      if (phase == 0) out[b * blockDim.x + threadIdx.x] = cells[(b + 1) % n];  // grid barrier: read
    }
  }
}

// Atomics do not race with one another; a plain read of what they count does, without a barrier.
extern "C" __global__ void counted(pab::u32* out, pab::u32 barrier) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* shared = reinterpret_cast<u32*>(memory);
  if (threadIdx.x == 0) *shared = 0;
  block_sync();
  atomic_add(shared, 1u);  // counted: atomic
  if (barrier) block_sync();
  out[threadIdx.x] = *shared;  // counted: read
}

extern "C" __global__ void not_atomic(pab::u32* counter, pab::u32 whole) {
  using namespace pab;
  if (whole) {
    atomic_add(counter, 1u);
  } else {
    *counter = *counter + 1;  // not atomic
  }
}

// Copies 16 bytes a thread.  `when`: 0 wait and barrier, 1 no barrier, 2 no wait, 3 the target is read before the wait,
// 4 the target is written before the wait, 5 the source is.
extern "C" __global__ void staged(pab::u32* from, pab::u32* out, pab::u32 when) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* shared = reinterpret_cast<u32*>(memory);
  const u32 t = threadIdx.x;
  for (u32 i = 0; i < 4; ++i) shared[4 * t + i] = 0;
  block_sync();
  cp_async16(shared + 4 * t, from + 4 * t, true);  // staged: copy
  cp_async_commit();
  u32 early = 0;
  if (when == 3) early = shared[4 * t];  // staged: early read
  if (when == 4) shared[4 * t + 1] = 5;  // staged: early write
  if (when == 5) from[4 * t] = 5;        // staged: source
  if (when != 2) cp_async_wait<0>();
  if (when != 1) block_sync();
  out[t] = shared[4 * (blockDim.x - 1 - t)] + early;  // staged: read
  block_sync();
  from[4 * t] = 7;  // staged: reused
}

// Blocks write the same word, or each its own.
extern "C" __global__ void same_word(pab::u32* out, pab::u32 apart) {
  if (threadIdx.x == 0) out[apart * blockIdx.x] = 1;  // same word
}

// Writes through a pointer to const.
extern "C" __global__ void through_const(const pab::u32* from, pab::u32* out) {
  out[threadIdx.x] = from[threadIdx.x];
  if (threadIdx.x == 3) const_cast<pab::u32*>(from)[3] = 1;  // through const
}

// All lanes read the same words; then one of them writes one, with or without a warp sync before.
extern "C" __global__ void broadcast(pab::u32* out, pab::u32 writer, pab::u32 sync) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* shared = reinterpret_cast<u32*>(memory);
  if (threadIdx.x == 0) {
    for (u32 i = 0; i < 16; ++i) shared[i] = i;
  }
  block_sync();
  u32 sum = 0;
  for (u32 i = 0; i < 16; ++i) sum += shared[i];  // broadcast: read
  out[threadIdx.x] = sum;
  if (sync) warp_sync(kFullMask);
  if (threadIdx.x == writer) shared[3] = sum;  // broadcast: write
}

// Each lane reads one half of a word after the other, by one instruction; then one lane writes a half.
extern "C" __global__ void half_by_half(pab::u32* out, pab::u32 shift) {
  using namespace pab;
  PAB_SHARED(memory);
  u16* shared = reinterpret_cast<u16*>(memory);
  for (u32 i = threadIdx.x; i < 64; i += 32) shared[i] = 1;
  block_sync();
  u32 sum = 0;
  // a bound that the compiler does not know, so that one instruction reads both
  for (u32 i = 0; i < 2 * gridDim.x; ++i) sum += shared[2 * threadIdx.x + i];  // half by half: read
  shared[(2 * threadIdx.x + 1 + shift) % 64] = static_cast<u16>(sum);  // half by half: write
  out[threadIdx.x] = sum;
}
