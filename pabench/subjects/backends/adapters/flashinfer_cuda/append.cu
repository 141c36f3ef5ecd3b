// SPDX-License-Identifier: Apache-2.0
// FlashInfer's kernel that appends tokens through the block table, as its host function launches it, and `fill`, which writes the structure
// that it takes and says how large that is.
#include "pages.cuh"

using Pages = flashinfer::paged_kv_t<PAB_STORED, int>;
constexpr uint32_t kVector = 16 / sizeof(PAB_STORED) > PAB_HEAD_DIM / 32 ? 16 / sizeof(PAB_STORED) : PAB_HEAD_DIM / 32;

template __global__ void flashinfer::AppendPagedKVCacheKernel<PAB_HEAD_DIM, kVector, PAB_STORED, int>(
    Pages, PAB_STORED* __restrict__, PAB_STORED* __restrict__, int* __restrict__, int* __restrict__, uint32_t, size_t, size_t,
    size_t, size_t);

extern "C" __global__ void fill(unsigned char* room, unsigned* sizes, PAB_STORED* k, PAB_STORED* v, int* indices, int* indptr,
                                int* last_page_len, int batch_size, int num_kv_heads, int page_size,
                                long long page_stride, long long token_stride, long long head_stride) {
  sizes[0] = sizeof(Pages);
  sizes[1] = 0;
  pabench::fill_pages(*reinterpret_cast<Pages*>(room), k, v, indices, indptr, last_page_len, batch_size, num_kv_heads,
                      page_size, page_stride, token_stride, head_stride);
}
