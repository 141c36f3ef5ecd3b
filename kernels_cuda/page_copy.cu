// SPDX-License-Identifier: Apache-2.0
// Copies the beginnings of pages to other pages of the same cache, in all layers at once: what a copy on write asks for.
//
//   page_copy   grid (any, number of caches); block 256; no shared memory
//
// Layout   bases (number of caches) u64: addresses of the key and value caches of the layers, alike in shape; three
//          strides in bytes (page, token, head) with contiguous head_dim, row_bytes of it.
// Request  copies (n, 3) i32: source page, target page, slots; count i64[1]: how many of them there are, read on the
//          device.  No target is a source or another's target.
// Compile  PAB_UNIT: bytes of one move, 16, 8, 4, 2 or 1; divides row_bytes, the strides and the addresses.
// Floor    each byte read once and written once: 2 * caches * sum(slots) * num_kv_heads * row_bytes.
//
// A block takes copy after copy; its threads take neighbouring moves, through the heads of a token and on to the next.
#include "pab/intrinsics.cuh"

namespace pab {

struct alignas(PAB_UNIT) Unit {
  unsigned char at[PAB_UNIT];
};

}  // namespace pab

extern "C" __global__ void __launch_bounds__(256) page_copy(
    const pab::u64* bases, const pab::i32* copies, const pab::i64* count, pab::i32 num_kv_heads, pab::i32 row_bytes,
    pab::i64 page_stride, pab::i64 token_stride, pab::i64 head_stride) {
  using namespace pab;
  unsigned char* cache = reinterpret_cast<unsigned char*>(bases[blockIdx.y]);
  const i32 row = row_bytes / PAB_UNIT, token = row * num_kv_heads;
  const i64 copies_all = count[0];
  for (i64 i = blockIdx.x; i < copies_all; i += gridDim.x) {
    const unsigned char* from = cache + copies[3 * i] * page_stride;
    unsigned char* to = cache + copies[3 * i + 1] * page_stride;
    const i64 moves = static_cast<i64>(copies[3 * i + 2]) * token;
    for (i64 move = threadIdx.x; move < moves; move += blockDim.x) {
      const i32 within = static_cast<i32>(move % token);
      const i64 at = move / token * token_stride + within / row * head_stride + static_cast<i64>(within % row) * PAB_UNIT;
      store_wide(reinterpret_cast<Unit*>(to + at), load_wide(reinterpret_cast<const Unit*>(from + at)));
    }
  }
}
