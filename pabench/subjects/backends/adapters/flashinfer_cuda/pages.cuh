// SPDX-License-Identifier: Apache-2.0
// A paged cache as FlashInfer's kernels take it, filled on the device: its own constructors run on the host.
#pragma once

#include <flashinfer/page.cuh>

namespace pabench {

using flashinfer::paged_kv_t;
using flashinfer::uint_fastdiv;

// A divisor as `uint_fastdiv` has it: what it multiplies by, and the number.
struct Divisor {
  cuda::fast_mod_div<uint32_t> by;
  uint32_t number;
};
static_assert(sizeof(Divisor) == sizeof(uint_fastdiv), "FlashInfer's divisor has another layout");

__device__ inline uint_fastdiv divisor(uint32_t number) {
  const Divisor made{cuda::fast_mod_div<uint32_t>(number), number};
  uint_fastdiv out;
  memcpy(&out, &made, sizeof out);
  return out;
}

// Strides are in elements and hold for K and V alike.
__device__ inline void fill_pages(paged_kv_t<PAB_STORED, int>& pages, PAB_STORED* k, PAB_STORED* v, int* indices, int* indptr,
                                  int* last_page_len, int batch_size, int num_kv_heads, int page_size,
                                  long long page_stride, long long token_stride, long long head_stride) {
  pages.page_size = divisor(page_size);
  pages.num_heads = num_kv_heads;
  pages.head_dim = PAB_HEAD_DIM;
  pages.batch_size = batch_size;
  pages.stride_page = pages.v_stride_page = page_stride;
  pages.stride_n = pages.v_stride_n = token_stride;
  pages.stride_h = pages.v_stride_h = head_stride;
  pages.k_data = k;
  pages.v_data = v;
  pages.indices = indices;
  pages.indptr = indptr;
  pages.last_page_len = last_page_len;
  pages.rope_pos_offset = nullptr;
}

}  // namespace pabench
