// SPDX-License-Identifier: Apache-2.0
// FlashInfer's prefill kernel on tensor cores (FA2), as BatchPrefillWithPagedKVCacheDispatched makes and launches it, and `fill`, which writes
// the structure of its parameters and says how large that and a block's shared memory are.
#include "pages.cuh"

#include <flashinfer/attention/default_prefill_params.cuh>
#include <flashinfer/attention/prefill.cuh>
#include <flashinfer/attention/variants.cuh>

using namespace flashinfer;
using Params = BatchPrefillPagedParams<PAB_STORED, PAB_STORED, PAB_STORED, int>;
using Variant = DefaultAttention<false, PAB_WINDOW, PAB_SOFT_CAP, false>;

constexpr MaskMode kMask = PAB_CAUSAL ? MaskMode::kCausal : MaskMode::kNone;
constexpr uint32_t kMmaQ = get_num_mma_q(PAB_TILE_Q), kWarpsQ = get_num_warps_q(PAB_TILE_Q), kWarpsKv = get_num_warps_kv(PAB_TILE_Q);
// Two blocks a multiprocessor where they fit; then as many tiles of 16 keys as registers and shared memory take.
constexpr uint32_t kFixed = PAB_TILE_Q * PAB_HEAD_DIM * sizeof(PAB_STORED), kTile = 2 * PAB_HEAD_DIM * 16 * kWarpsKv * sizeof(PAB_STORED);
constexpr uint32_t kBlocks = PAB_SHARED_PER_SM >= 2 * (kFixed + kTile) ? 2 : 1;
constexpr uint32_t kRoom = PAB_SHARED_PER_SM / kBlocks < PAB_SHARED_PER_BLOCK ? PAB_SHARED_PER_SM / kBlocks : PAB_SHARED_PER_BLOCK;
constexpr uint32_t kMost = (kRoom - kFixed) / kTile < 8 / kMmaQ ? (kRoom - kFixed) / kTile : 8 / kMmaQ;
constexpr uint32_t kMmaKv = kMost >= 8 ? 8 : kMost >= 4 ? 4 : kMost >= 2 ? 2 : 1;
using Traits = KernelTraits<kMask, PAB_TILE_Q, kMmaQ, kMmaKv, PAB_HEAD_DIM / 16, PAB_HEAD_DIM / 16, kWarpsQ, kWarpsKv,
                            PosEncodingMode::kNone, PAB_STORED, PAB_STORED, PAB_STORED, float, int, Variant,
                            kPrefillLauncherRepacksFp4>;

template __global__ void flashinfer::BatchPrefillWithPagedKVCacheKernel<true, Traits, Params>(
    const __grid_constant__ Params);

extern "C" __global__ void fill(unsigned char* room, unsigned* sizes, PAB_STORED* k, PAB_STORED* v, int* indices, int* indptr,
                                int* last_page_len, int batch_size, int num_kv_heads, int page_size,
                                long long page_stride, long long token_stride, long long head_stride, PAB_STORED* q,
                                PAB_STORED* out, float* lse, int* request_indices, int* kv_tile_indices, int* o_indptr,
                                int* kv_chunk_size, int tiles, int num_qo_heads, int window_left, float soft_cap,
                                float scale, int split, int* q_indptr, int* qo_tile_indices) {
  sizes[0] = sizeof(Params);
  sizes[1] = sizeof(typename Traits::SharedStoragePaged);
  sizes[2] = kWarpsQ;
  sizes[3] = kWarpsKv;
  // whoever launches this gives zeros: its constructor runs on the host
  Params& params = *reinterpret_cast<Params*>(room);
  pabench::fill_pages(params.paged_kv, k, v, indices, indptr, last_page_len, batch_size, num_kv_heads, page_size,
                      page_stride, token_stride, head_stride);
  params.q = q;
  params.q_indptr = q_indptr;
  params.o = out;
  params.lse = lse;
  params.group_size = pabench::divisor(num_qo_heads / num_kv_heads);
  params.num_qo_heads = num_qo_heads;
  params.q_stride_n = num_qo_heads * PAB_HEAD_DIM;
  params.q_stride_h = PAB_HEAD_DIM;
  params.window_left = window_left;
  params.logits_soft_cap = soft_cap;
  params.sm_scale = scale;
  params.rope_rcp_scale = params.rope_rcp_theta = 1.0f;
  params.request_indices = request_indices;
  params.qo_tile_indices = qo_tile_indices;
  params.kv_tile_indices = kv_tile_indices;
  params.o_indptr = o_indptr;
  params.merge_indptr = o_indptr;
  params.kv_chunk_size_ptr = kv_chunk_size;
  params.padded_batch_size = tiles;
  params.partition_kv = split != 0;
}
