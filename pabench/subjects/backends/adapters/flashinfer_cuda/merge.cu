// SPDX-License-Identifier: Apache-2.0
// FlashInfer's kernels that merge states: any number a row, by offsets, after split keys; and those of `merge_states`.
#include <flashinfer/attention/cascade.cuh>

constexpr uint32_t kVector = 16 / sizeof(PAB_STORED) > PAB_HEAD_DIM / 32 ? 16 / sizeof(PAB_STORED) : PAB_HEAD_DIM / 32;
constexpr uint32_t kX = PAB_HEAD_DIM / kVector, kY = 128 / kX, kStages = 4;

template __global__ void
flashinfer::PersistentVariableLengthMergeStatesKernel<kVector, kX, kY, kStages, PAB_STORED, PAB_STORED, int>(
    PAB_STORED* __restrict__, float* __restrict__, int*, PAB_STORED* __restrict__, float* __restrict__, uint32_t,
    uint32_t* __restrict__, uint32_t);
template __global__ void
flashinfer::MergeStatesLargeNumIndexSetsKernel<kVector, kX, kY, kStages, PAB_STORED, PAB_STORED>(
    PAB_STORED* __restrict__, float* __restrict__, PAB_STORED* __restrict__, float* __restrict__, uint32_t, uint32_t);
template __global__ void flashinfer::MergeStatesKernel<kVector, PAB_STORED, PAB_STORED>(
    PAB_STORED* __restrict__, float* __restrict__, PAB_STORED* __restrict__, float* __restrict__, uint32_t, uint32_t, uint32_t);
