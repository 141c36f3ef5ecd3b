// SPDX-License-Identifier: Apache-2.0
// FlashInfer's decode kernel on CUDA cores, as BatchDecodeWithPagedKVCacheDispatched makes and launches it, and `fill`, which writes the
// structure of its parameters and says how large that and a block's shared memory are.
#include "pages.cuh"

#include <flashinfer/attention/decode.cuh>
#include <flashinfer/attention/default_decode_params.cuh>
#include <flashinfer/attention/variants.cuh>

using namespace flashinfer;
using Params = BatchDecodeParams<PAB_STORED, PAB_STORED, PAB_STORED, int>;
using Variant = DefaultAttention<false, PAB_WINDOW, PAB_SOFT_CAP, false>;

constexpr uint32_t larger(uint32_t a, uint32_t b) { return a > b ? a : b; }
constexpr uint32_t kStages = 2;
constexpr uint32_t kVector = larger(16 / sizeof(PAB_STORED), PAB_HEAD_DIM / 32);
constexpr uint32_t kX = PAB_HEAD_DIM / kVector, kY = PAB_GROUP, kThreads = larger(128, kX * kY), kZ = kThreads / (kX * kY);
constexpr uint32_t kTile = PAB_GROUP == 1 ? 4 : 1;
constexpr uint32_t kShared =
    larger(2 * kStages * kTile * kY * kZ * PAB_HEAD_DIM * sizeof(PAB_STORED), kZ * kY * PAB_HEAD_DIM * sizeof(float)) +
    larger(kTile * kThreads * sizeof(PAB_STORED*), 2 * kY * kZ * sizeof(float));

template __global__ void
flashinfer::BatchDecodeWithPagedKVCacheKernel<PosEncodingMode::kNone, kStages, kTile, kVector, kX, kY, kZ, Variant,
                                              Params>(const __grid_constant__ Params);

extern "C" __global__ void fill(unsigned char* room, unsigned* sizes, PAB_STORED* k, PAB_STORED* v, int* indices, int* indptr,
                                int* last_page_len, int batch_size, int num_kv_heads, int page_size,
                                long long page_stride, long long token_stride, long long head_stride, PAB_STORED* q,
                                PAB_STORED* out, float* lse, int* request_indices, int* kv_tile_indices, int* o_indptr,
                                int* kv_chunk_size, int tiles, int num_qo_heads, int window_left, float soft_cap,
                                float scale, int split) {
  sizes[0] = sizeof(Params);
  sizes[1] = kShared;
  Params params;
  pabench::fill_pages(params.paged_kv, k, v, indices, indptr, last_page_len, batch_size, num_kv_heads, page_size,
                      page_stride, token_stride, head_stride);
  params.q = q;
  params.o = out;
  params.lse = lse;
  params.padded_batch_size = tiles;
  params.num_qo_heads = num_qo_heads;
  params.q_stride_n = num_qo_heads * PAB_HEAD_DIM;
  params.q_stride_h = PAB_HEAD_DIM;
  params.window_left = window_left;
  params.logits_soft_cap = soft_cap;
  params.sm_scale = scale;
  params.rope_rcp_scale = params.rope_rcp_theta = 1.0f;
  params.request_indices = request_indices;
  params.kv_tile_indices = kv_tile_indices;
  params.o_indptr = o_indptr;
  params.kv_chunk_size_ptr = kv_chunk_size;
  params.partition_kv = split != 0;
  *reinterpret_cast<Params*>(room) = params;
}
