// SPDX-License-Identifier: Apache-2.0
// Conversions and approximate functions, element by element; used by tests/emulator/test_numbers.py.
#include "pab/intrinsics.cuh"

extern "C" __global__ void widen(const pab::u16* bits, float* from_half, float* from_bf16, pab::u32 n) {
  const pab::u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  from_half[i] = pab::half_to_float(bits[i]);
  from_bf16[i] = pab::bf16_to_float(bits[i]);
}

extern "C" __global__ void narrow(const float* in, pab::u16* half, pab::u16* bf16, pab::u32 n) {
  const pab::u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  half[i] = pab::float_to_half(in[i]);
  bf16[i] = pab::float_to_bf16(in[i]);
}

// NaN made out of numbers, or of what is given: out (5 * n), half (n), bf16 (n)
extern "C" __global__ void not_numbers(const float* in, float* out, pab::u16* half, pab::u16* bf16, pab::u32 n) {
  const pab::u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float nan = in[i] / in[i];
  half[i] = pab::float_to_half(nan);
  bf16[i] = pab::float_to_bf16(nan);
  out[5 * i] = pab::stored_float(nan);
  out[5 * i + 1] = pab::ex2(nan);
  out[5 * i + 2] = pab::lg2(nan);
  out[5 * i + 3] = pab::rcp(nan);
  out[5 * i + 4] = pab::fast_tanh(nan);
}

extern "C" __global__ void functions(const float* in, float* ex2, float* lg2, float* rcp, pab::u32 n) {
  const pab::u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  ex2[i] = pab::ex2(in[i]);
  lg2[i] = pab::lg2(in[i]);
  rcp[i] = pab::rcp(in[i]);
}

extern "C" __global__ void widen_e4m3(const pab::u8* bits, float* out, pab::u32 n) {
  const pab::u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = pab::e4m3_to_float(bits[i]);
}

// all n of them are pairs: out (n)
extern "C" __global__ void widen_e4m3x2(const pab::u16* bits, pab::u32* out, pab::u32 n) {
  const pab::u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = pab::e4m3x2_to_f16x2(bits[i]);
}

extern "C" __global__ void permute_bytes(const pab::u32* in, pab::u32* out, pab::u32 selector) {
  out[threadIdx.x] = pab::byte_permute(pab::opaque(in[threadIdx.x]), selector);
}

extern "C" __global__ void permute_two_words(const pab::u32* low, const pab::u32* high, pab::u32* out, pab::u32 selector) {
  out[threadIdx.x] = pab::byte_permute(pab::opaque(low[threadIdx.x]), high[threadIdx.x], selector);
}

// pairs of float16, of bfloat16: all (n)
extern "C" __global__ void fma_half(const pab::u32* a, const pab::u32* b, const pab::u32* c, pab::u32* out, pab::u32 n) {
  const pab::u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = pab::fma_f16x2(a[i], b[i], c[i]);
}
extern "C" __global__ void fma_bfloat(const pab::u32* a, const pab::u32* b, const pab::u32* c, pab::u32* out, pab::u32 n) {
  const pab::u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = pab::fma_bf16x2(a[i], b[i], c[i]);
}

extern "C" __global__ void narrow_e4m3(const float* in, pab::u8* bits, pab::u32 n) {
  const pab::u32 i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) bits[i] = pab::float_to_e4m3(in[i]);
}
