// SPDX-License-Identifier: Apache-2.0
// Controls of class init: reads of bytes that nobody wrote.
//
// Grid, block and shared memory of each kernel stand in controls.toml; they are tiny, no floor is aimed at.
#include "pab/intrinsics.cuh"

namespace pab {

struct alignas(16) Words4 {
  u32 at[4];
};

}  // namespace pab

// --- global memory ------------------------------------------------------------------------------------------
extern "C" __global__ void output_read_before_written(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  out[threadIdx.x] += in[threadIdx.x];  // FAULT: adds to what nobody set
}

extern "C" __global__ void output_written_then_read(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  out[threadIdx.x] = 1;
  out[threadIdx.x] += in[threadIdx.x];
}

// A split without work leaves its partial sum as it is.
extern "C" __global__ void partial_of_an_empty_split(const pab::u32* lengths, pab::u32* partial, pab::u32* out) {
  using namespace pab;
  const u32 length = lengths[threadIdx.x];
  if (length > 0) partial[threadIdx.x] = length;
  block_sync();
  u32 sum = 0;
  for (u32 split = 0; split < blockDim.x; ++split) {
    sum += partial[split];  // FAULT: split 3 is empty
  }
  out[threadIdx.x] = sum;
}

extern "C" __global__ void partials_of_all_splits(const pab::u32* lengths, pab::u32* partial, pab::u32* out) {
  using namespace pab;
  const u32 length = lengths[threadIdx.x];
  partial[threadIdx.x] = length > 0 ? length : 0;
  block_sync();
  u32 sum = 0;
  for (u32 split = 0; split < blockDim.x; ++split) sum += partial[split];
  out[threadIdx.x] = sum;
}

// The merge skips what it knows to be empty, so that nobody has to write it.
extern "C" __global__ void empty_split_is_skipped(const pab::u32* lengths, pab::u32* partial, pab::u32* out) {
  using namespace pab;
  const u32 length = lengths[threadIdx.x];
  if (length > 0) partial[threadIdx.x] = length;
  block_sync();
  u32 sum = 0;
  for (u32 split = 0; split < blockDim.x; ++split) {
    if (lengths[split] > 0) sum += partial[split];
  }
  out[threadIdx.x] = sum;
}

extern "C" __global__ void one_byte_unwritten(pab::u8* bytes, pab::u32* out, pab::u32 skipped) {
  using namespace pab;
  for (u32 i = 0; i < 4; ++i) {
    const u32 at = 4 * threadIdx.x + i;
    if (at != skipped) bytes[at] = 1;
  }
  out[threadIdx.x] = reinterpret_cast<const u32*>(bytes)[threadIdx.x];  // FAULT: three of four bytes of one word
}

extern "C" __global__ void word_of_four_bytes(pab::u8* bytes, pab::u32* out) {
  using namespace pab;
  for (u32 i = 0; i < 4; ++i) bytes[4 * threadIdx.x + i] = 1;
  out[threadIdx.x] = reinterpret_cast<const u32*>(bytes)[threadIdx.x];
}

// --- shared memory ------------------------------------------------------------------------------------------
extern "C" __global__ void stage_not_filled(const pab::u32* in, pab::u32* out, pab::u32 rounds) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* stages = reinterpret_cast<u32*>(memory);
  const u32 n = blockDim.x;
  stages[threadIdx.x] = in[threadIdx.x];
  u32 sum = 0;
  for (u32 round = 0; round < rounds; ++round) {
    block_sync();
    sum += stages[round % 2 * n + n - 1 - threadIdx.x];  // FAULT: nobody fills stage 1
  }
  out[threadIdx.x] = sum;
}

extern "C" __global__ void stage_filled_one_round_ahead(const pab::u32* in, pab::u32* out, pab::u32 rounds) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* stages = reinterpret_cast<u32*>(memory);
  const u32 n = blockDim.x;
  stages[threadIdx.x] = in[threadIdx.x];
  u32 sum = 0;
  for (u32 round = 0; round < rounds; ++round) {
    block_sync();
    if (round + 1 < rounds) stages[(round + 1) % 2 * n + threadIdx.x] = in[(round + 1) * n + threadIdx.x];
    sum += stages[round % 2 * n + n - 1 - threadIdx.x];
  }
  out[threadIdx.x] = sum;
}

extern "C" __global__ void padding_used(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* row = reinterpret_cast<u32*>(memory) + 4 * threadIdx.x;
  for (u32 i = 0; i < 3; ++i) row[i] = in[3 * threadIdx.x + i];
  const Words4 four = load_wide(reinterpret_cast<const Words4*>(row));  // FAULT: the fourth word is padding
  out[threadIdx.x] = four.at[0] + four.at[3];
}

// Rows of 33 words keep columns out of one bank; the last word of a row is nobody's.
extern "C" __global__ void padding_left_alone(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  const u32 row = threadIdx.x / kWarpSize, column = threadIdx.x % kWarpSize;
  for (u32 r = row; r < kWarpSize; r += blockDim.x / kWarpSize) tile[33 * r + column] = in[kWarpSize * r + column];
  block_sync();
  for (u32 r = row; r < kWarpSize; r += blockDim.x / kWarpSize) {
    const u32 crossed = kWarpSize * column + r;  // what `in` holds there
    out[kWarpSize * r + column] = tile[33 * column + r] - crossed + kWarpSize * r + column;
  }
}

// What was written by nobody may be overwritten by anybody.
extern "C" __global__ void shared_words_set_blindly(pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  for (u32 round = 0; round < 3; ++round) tile[threadIdx.x] = threadIdx.x + round;
  out[threadIdx.x] = tile[threadIdx.x];
}
