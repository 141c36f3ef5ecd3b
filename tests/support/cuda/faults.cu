// SPDX-License-Identifier: Apache-2.0
// Small kernels for the checked device: some touch what they may not.
#include "pab/intrinsics.cuh"

extern "C" __global__ void copy_words(const pab::u32* from, pab::u32* to, pab::i32 count, pab::i32 shift) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) to[i] = from[i + shift];
}

extern "C" __global__ void reverse_in_shared(const pab::u32* from, pab::u32* to, pab::i32 written) {
  PAB_SHARED(shared);
  pab::u32* tile = reinterpret_cast<pab::u32*>(shared);
  if (static_cast<int>(threadIdx.x) < written) tile[threadIdx.x] = from[threadIdx.x];
  pab::block_sync();
  to[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}
