// SPDX-License-Identifier: Apache-2.0
// Controls of class memory: accesses where the kernel has no memory, or in a width the address does not fit.
//
// Grid, block and shared memory of each kernel stand in controls.toml; they are tiny, no floor is aimed at.
// A vector that is loaded is used whole: compilers narrow a load of which one word is.
#include "pab/intrinsics.cuh"

namespace pab {

struct alignas(8) Words2 {
  u32 at[2];
};
struct alignas(16) Words4 {
  u32 at[4];
};

}  // namespace pab

// --- ends of a buffer ---------------------------------------------------------------------------------------
extern "C" __global__ void past_table_by_one_byte(const pab::u8* flags, pab::u8* out, pab::u32 count) {
  using namespace pab;
  const u32 i = count - threadIdx.x;
  out[threadIdx.x] = flags[i];  // FAULT: counts down from one past the last byte
}

extern "C" __global__ void bytes_to_the_last(const pab::u8* flags, pab::u8* out, pab::u32 count) {
  using namespace pab;
  out[threadIdx.x] = flags[count - 1 - threadIdx.x];
}

extern "C" __global__ void vector_crosses_the_end(const pab::u32* in, pab::u32* out, pab::u32 count) {
  using namespace pab;
  const u32 pair = threadIdx.x;
  if (2 * pair < count) {
    const Words2 two = load_wide(reinterpret_cast<const Words2*>(in) + pair);  // FAULT: an odd count has half a pair
    out[pair] = two.at[0] + two.at[1];
  }
}

// Reads whole vectors of a table whose length is no multiple of them, but whose allocation is.
extern "C" __global__ void tail_within_the_allocation(const pab::u32* table, pab::u32* out, pab::u32 entries) {
  using namespace pab;
  u32 sum = 0;
  for (u32 first = 4 * threadIdx.x; first < entries; first += 4 * blockDim.x) {
    const Words4 four = load_wide(reinterpret_cast<const Words4*>(table + first));
    for (u32 i = 0; i < 4; ++i) sum += first + i < entries ? four.at[i] : 0;
  }
  out[threadIdx.x] = reduce_add(kFullMask, sum);
}

extern "C" __global__ void write_before_the_start(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  const i32 i = static_cast<i32>(threadIdx.x) - 1;
  out[i] = in[threadIdx.x];  // FAULT: thread 0 has no left neighbour
}

extern "C" __global__ void negative_index_from_the_middle(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  const u32* middle = in + blockDim.x / 2;
  const i32 i = static_cast<i32>(threadIdx.x) - static_cast<i32>(blockDim.x / 2);
  out[threadIdx.x] = middle[i];
}

extern "C" __global__ void no_guard_in_the_last_block(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  const u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = in[i % blockDim.x];  // FAULT: the last block is not full
}

// One block does the work of many.
extern "C" __global__ void grid_stride_of_one_block(const pab::u32* in, pab::u32* out, pab::u32 count) {
  using namespace pab;
  for (u32 i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += gridDim.x * blockDim.x) out[i] = in[i] + 1;
}

// The end of a table is a pointer that is compared with, never followed.
extern "C" __global__ void pointer_past_the_end_as_a_bound(const pab::u32* table, pab::u32* out, pab::u32 entries) {
  using namespace pab;
  u32 sum = 0;
  for (const u32* at = table; at != table + entries; ++at) sum += *at;
  out[threadIdx.x] = sum;
}

// --- width of an index --------------------------------------------------------------------------------------
// The cache's first page that lies in memory is `first_page`: offsets of pages are large, what is touched is not.
extern "C" __global__ void page_offset_in_32_bits(const pab::u32* cache, pab::u32* out, pab::i64 first_page,
                                                  pab::u32 page_slots) {
  using namespace pab;
  const u32 offset = static_cast<u32>(first_page) * page_slots;  // the wrap
  const i64 resident = static_cast<i64>(offset) - first_page * page_slots;
  out[threadIdx.x] = cache[resident + threadIdx.x];  // FAULT: 2^32 slots away
}

extern "C" __global__ void page_offset_in_64_bits(const pab::u32* cache, pab::u32* out, pab::i64 first_page,
                                                  pab::u32 page_slots) {
  using namespace pab;
  const u64 offset = static_cast<u64>(first_page) * page_slots;
  const i64 resident = static_cast<i64>(offset) - first_page * page_slots;
  out[threadIdx.x] = cache[resident + threadIdx.x];
}

// --- alignment ----------------------------------------------------------------------------------------------
extern "C" __global__ void misaligned_8_bytes(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  const Words2 two = load_wide(reinterpret_cast<const Words2*>(in + 1 + 2 * threadIdx.x));  // FAULT: odd words
  out[threadIdx.x] = two.at[0] + two.at[1];
}

extern "C" __global__ void aligned_8_bytes(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  const Words2 two = load_wide(reinterpret_cast<const Words2*>(in + 2 + 2 * threadIdx.x));
  out[threadIdx.x] = two.at[0];
}

extern "C" __global__ void misaligned_16_bytes(const pab::u32* in, pab::u32* out, pab::u32 row_words) {
  using namespace pab;
  const u32* row = in + static_cast<u64>(threadIdx.x) * row_words;
  const Words4 four = load_wide(reinterpret_cast<const Words4*>(row));  // FAULT: rows of 6 words
  out[threadIdx.x] = four.at[0] + four.at[1] + four.at[2] + four.at[3];
}

extern "C" __global__ void aligned_16_bytes(const pab::u32* in, pab::u32* out, pab::u32 row_words) {
  using namespace pab;
  const u32* row = in + static_cast<u64>(threadIdx.x) * row_words + 4;
  const Words4 four = load_wide(reinterpret_cast<const Words4*>(row));
  out[threadIdx.x] = four.at[3];
}

// As float4 is: the width of the load comes from the type, and no intrinsic says it.
struct alignas(16) Four {
  pab::u32 x, y, z, w;
};
extern "C" __global__ void misaligned_vector(const pab::u32* in, pab::u32* out, pab::u32 first) {
  const Four four = reinterpret_cast<const Four*>(in + first)[threadIdx.x];  // FAULT: first is no multiple of 4
  out[threadIdx.x] = four.x + four.y + four.z + four.w;
}

extern "C" __global__ void aligned_vector(const pab::u32* in, pab::u32* out, pab::u32 first) {
  const Four four = reinterpret_cast<const Four*>(in + first)[threadIdx.x];
  out[threadIdx.x] = four.y;
}

extern "C" __global__ void misaligned_store(pab::u8* out, pab::u32 at) {
  using namespace pab;
  *reinterpret_cast<u16*>(out + at + 2 * threadIdx.x) = static_cast<u16>(threadIdx.x);  // FAULT: odd bytes
}

extern "C" __global__ void store_to_even_bytes(pab::u8* out, pab::u32 at) {
  using namespace pab;
  *reinterpret_cast<u16*>(out + at + 2 * threadIdx.x) = static_cast<u16>(0x0101u * threadIdx.x);
}

// A word from an odd address, byte by byte.
extern "C" __global__ void odd_words_by_bytes(const pab::u8* in, pab::u32* out) {
  using namespace pab;
  u32 word = 0;
  for (u32 i = 0; i < 4; ++i) word |= static_cast<u32>(in[5 * threadIdx.x + 1 + i]) << 8 * i;
  out[threadIdx.x] = word;
}

// --- pointers -----------------------------------------------------------------------------------------------
extern "C" __global__ void null_pointer(pab::u64 optional, pab::u32* out) {
  using namespace pab;
  const u32* bias = reinterpret_cast<const u32*>(optional);
  out[threadIdx.x] = bias[threadIdx.x];  // FAULT: the optional bias is not there
}

extern "C" __global__ void null_pointer_not_followed(pab::u64 optional, pab::u32* out) {
  using namespace pab;
  const u32* bias = reinterpret_cast<const u32*>(optional);
  out[threadIdx.x] = bias ? bias[threadIdx.x] : threadIdx.x;
}

extern "C" __global__ void freed_workspace(const pab::u64* workspaces, pab::u32* out) {
  using namespace pab;
  const u32* workspace = reinterpret_cast<const u32*>(workspaces[0]);
  out[threadIdx.x] = workspace[threadIdx.x];  // FAULT: given back before the launch
}

extern "C" __global__ void workspace_through_memory(const pab::u64* workspaces, pab::u32* out,
                                                     const pab::u32* workspace) {
  using namespace pab;
  const u32* found = reinterpret_cast<const u32*>(workspaces[0]);
  out[threadIdx.x] = found[threadIdx.x] + static_cast<u32>(found - workspace);
}

// --- shared memory ------------------------------------------------------------------------------------------
extern "C" __global__ void past_shared_memory(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  tile[threadIdx.x] = in[threadIdx.x];  // FAULT: the launch asks for one word too few
  out[threadIdx.x] = tile[threadIdx.x];
}

extern "C" __global__ void shared_memory_to_its_end(const pab::u32* in, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* tile = reinterpret_cast<u32*>(memory);
  tile[threadIdx.x] = in[threadIdx.x];
  out[threadIdx.x] = tile[threadIdx.x];
}
