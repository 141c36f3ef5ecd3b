// SPDX-License-Identifier: Apache-2.0
// Controls of class race in global memory: blocks that touch the same bytes of one launch.
//
// Grid, block and shared memory of each kernel stand in controls.toml; they are tiny, no floor is aimed at.
#include "pab/intrinsics.cuh"

// --- two writers --------------------------------------------------------------------------------------------
extern "C" __global__ void two_blocks_write_their_own(pab::u32* out) {
  using namespace pab;
  out[threadIdx.x] = blockIdx.x;  // FAULT: the index lacks the block
}

extern "C" __global__ void two_blocks_write_the_same(pab::u32* out) {
  using namespace pab;
  out[threadIdx.x] = 7;  // FAULT: equal values race as well
}

// Blocks write neighbouring bytes of one word.
extern "C" __global__ void blocks_write_neighbouring_bytes(pab::u8* out) {
  using namespace pab;
  out[threadIdx.x * gridDim.x + blockIdx.x] = static_cast<u8>(threadIdx.x * gridDim.x + blockIdx.x);
}

// Two tokens were given one slot.
extern "C" __global__ void append_to_a_doubled_slot(const pab::i64* slot_mapping, const pab::u32* keys,
                                                    pab::u32* cache) {
  using namespace pab;
  const i64 slot = slot_mapping[blockIdx.x];
  cache[slot * blockDim.x + threadIdx.x] = keys[blockIdx.x * blockDim.x + threadIdx.x];  // FAULT: slot 1 twice
}

extern "C" __global__ void append_to_scattered_slots(const pab::i64* slot_mapping, const pab::u32* keys,
                                                     pab::u32* cache) {
  using namespace pab;
  const i64 slot = slot_mapping[blockIdx.x];
  cache[slot * blockDim.x + threadIdx.x] = keys[blockIdx.x * blockDim.x + threadIdx.x];
}

// --- writer and reader --------------------------------------------------------------------------------------
extern "C" __global__ void shift_in_place_by_blocks(pab::u32* data) {
  using namespace pab;
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  const u32 next = data[i + 1];  // FAULT: the next block may have written it
  block_sync();
  data[i] = next;
}

// One block may: all have read before anyone writes.
extern "C" __global__ void shift_in_place_by_one_block(pab::u32* data) {
  using namespace pab;
  const u32 next = data[threadIdx.x + 1];
  block_sync();
  data[threadIdx.x] = next;
}

extern "C" __global__ void byte_of_a_word_that_is_read(pab::u8* flags, pab::u32* out) {
  using namespace pab;
  if (blockIdx.x == 0) {
    flags[3] = 1;  // FAULT: the other block reads the word that holds it
  } else {
    out[0] = reinterpret_cast<const u32*>(flags)[0];
  }
}

extern "C" __global__ void byte_beside_a_word_that_is_read(pab::u8* flags, pab::u32* out) {
  using namespace pab;
  if (blockIdx.x == 0) {
    flags[4] = 1;
  } else {
    out[0] = reinterpret_cast<const u32*>(flags)[0];
  }
}

// --- counters -----------------------------------------------------------------------------------------------
extern "C" __global__ void counter_without_atomics(pab::u32* counter) {
  using namespace pab;
  if (threadIdx.x == 0) *counter += 1;  // FAULT: all blocks at once
}

// Each thread takes a number; whoever has it, all numbers are given once.
extern "C" __global__ void tickets_by_atomics(pab::u32* counter, pab::u32* out) {
  using namespace pab;
  const u32 ticket = atomic_add(counter, 1u);
  out[ticket] = ticket;
}

extern "C" __global__ void atomic_count_read_plainly(pab::u32* counter, pab::u32* out) {
  using namespace pab;
  atomic_add(counter, 1u);
  if (threadIdx.x == 0) out[blockIdx.x] = *counter;  // FAULT: others may still add
}

extern "C" __global__ void maximum_read_by_an_atomic(const pab::u32* in, pab::u32* largest, pab::u32* out) {
  using namespace pab;
  atomic_max(largest, in[blockIdx.x * blockDim.x + threadIdx.x]);
  block_sync();
  // read by an atomic too, and used only for what holds whatever the other blocks have done
  if (threadIdx.x == 0) out[blockIdx.x] = atomic_or(largest, 0u) >= in[blockIdx.x * blockDim.x + blockDim.x - 1];
}

extern "C" __global__ void word_set_plainly_then_added_to(pab::u32* total, pab::u32* out) {
  using namespace pab;
  if (blockIdx.x == 0 && threadIdx.x == 0) *total = 0;  // FAULT: the other blocks add already
  block_sync();
  atomic_add(total, 1u);
  out[blockIdx.x * blockDim.x + threadIdx.x] = threadIdx.x;
}

extern "C" __global__ void word_of_each_block_set_then_added_to(pab::u32* totals) {
  using namespace pab;
  if (threadIdx.x == 0) totals[blockIdx.x] = 0;
  block_sync();
  atomic_add(totals + blockIdx.x, 1u);
}

// A block reads its neighbour's input while that one reads it too: reads alone are no race.
extern "C" __global__ void halo_that_is_only_read(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = in[i] + in[i + 1] + in[i + 2];
}

extern "C" __global__ void blocks_interleave_words(pab::u32* out) {
  using namespace pab;
  const u32 i = threadIdx.x * gridDim.x + blockIdx.x;
  out[i] = i;
}

extern "C" __global__ void histogram_by_atomics(const pab::u32* in, pab::u32* counts) {
  using namespace pab;
  atomic_add(counts + in[blockIdx.x * blockDim.x + threadIdx.x] % 8, 1u);
}

// --- two names of one buffer --------------------------------------------------------------------------------
// `in` promises not to write, but its memory has another name, too.
extern "C" __global__ void read_only_by_one_name(const pab::u32* in, const pab::u64* names, pab::u32* out) {
  using namespace pab;
  if (blockIdx.x == 0) {
    u32* other = reinterpret_cast<u32*>(names[0]);
    other[threadIdx.x] = 1;  // FAULT: block 1 reads the same words as `in`
  } else {
    out[threadIdx.x] = in[threadIdx.x];
  }
}

extern "C" __global__ void read_only_by_both_names(const pab::u32* in, const pab::u64* names, pab::u32* out) {
  using namespace pab;
  const u32* other = reinterpret_cast<const u32*>(names[0]);
  out[blockIdx.x * blockDim.x + threadIdx.x] = in[threadIdx.x] + other[threadIdx.x];
}
