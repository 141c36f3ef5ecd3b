// SPDX-License-Identifier: Apache-2.0
// FlashInfer's attention over latent caches (FA2), as mla::BatchMLAPagedAttention makes and launches it, and `fill`, which writes the
// structure of its parameters and says how large that and a block's shared memory are.
#include "pages.cuh"

#include <flashinfer/attention/mla.cuh>

using namespace flashinfer;
using Params = MLAParams<PAB_STORED, PAB_STORED, PAB_STORED, int>;

constexpr uint32_t kKpe = 64, kTileQ = 64;
// What DISPATCH_SMEM_CONFIG has for the shared memory of a multiprocessor.
constexpr uint32_t kStages = PAB_SHARED_PER_SM >= 147968 ? 2 : 1;
constexpr uint32_t kTileKv = PAB_SHARED_PER_SM >= 221696 ? 64 : PAB_SHARED_PER_SM >= 147968 ? 32 : 16;
using Traits = mla::KernelTraits<PAB_CAUSAL, kStages, (kStages > 1), PAB_HEAD_DIM, kKpe, kTileQ, kTileKv, PAB_STORED, PAB_STORED,
                                 PAB_STORED, int>;

template __global__ void flashinfer::mla::BatchMLAPagedAttentionKernel<Traits, Params>(const __grid_constant__ Params);

// `works` has a row a work for each of its 8 numbers, `merges` one a block for each of its 5.
extern "C" __global__ void fill(unsigned char* room, unsigned* sizes, PAB_STORED* q, PAB_STORED* cache, PAB_STORED* parts,
                                float* sums, PAB_STORED* out, float* lse, int* indices, int* works, int* merges,
                                int* work_starts, int num_works, int num_blocks, int num_heads, int page_size,
                                long long page_stride, long long token_stride, float scale) {
  sizes[0] = sizeof(Params);
  sizes[1] = sizeof(typename Traits::SharedStorage);
  Params& params = *reinterpret_cast<Params*>(room);
  params.q_nope = q;
  params.q_pe = q + PAB_HEAD_DIM;
  params.ckv = cache;
  params.kpe = cache + PAB_HEAD_DIM;
  params.partial_o = parts;
  params.partial_lse = sums;
  params.final_o = out;
  params.final_lse = lse;
  params.kv_indices = indices;
  int** const of_work[] = {&params.q_indptr, &params.kv_indptr, &params.partial_indptr, &params.q_len,
                           &params.kv_len, &params.q_start, &params.kv_start, &params.kv_end};
  for (int i = 0; i < 8; ++i) *of_work[i] = works + i * num_works;
  int** const of_merge[] = {&params.merge_packed_offset_start, &params.merge_packed_offset_end,
                            &params.merge_partial_packed_offset_start, &params.merge_partial_packed_offset_end,
                            &params.merge_partial_stride};
  for (int i = 0; i < 5; ++i) *of_merge[i] = merges + i * num_blocks;
  params.work_indptr = work_starts;
  params.block_size = pabench::divisor(page_size);
  params.num_heads = pabench::divisor(num_heads);
  params.q_nope_stride_n = params.q_pe_stride_n = num_heads * (PAB_HEAD_DIM + kKpe);
  params.q_nope_stride_h = params.q_pe_stride_h = PAB_HEAD_DIM + kKpe;
  params.ckv_stride_page = params.kpe_stride_page = page_stride;
  params.ckv_stride_n = params.kpe_stride_n = token_stride;
  params.o_stride_n = num_heads * PAB_HEAD_DIM;
  params.o_stride_h = PAB_HEAD_DIM;
  params.sm_scale = scale;
  params.ckv_scale = params.kpe_scale = 1.0f;
  params.ckv_scale_arr = nullptr;
  params.return_lse_base_on_e = false;
}
