// SPDX-License-Identifier: Apache-2.0
// mbarriers in shared memory, as kernels that are not ours write them.
#pragma once

__device__ unsigned offset(const void* at) { return static_cast<unsigned>(__cvta_generic_to_shared(at)); }
__device__ void init(unsigned long long* at, unsigned count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(offset(at)), "r"(count) : "memory");
}
__device__ void arrive(unsigned long long* at) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%0]; }" ::"r"(offset(at)) : "memory");
}
__device__ void wait(unsigned long long* at, unsigned parity) {
  asm volatile(
      "{ .reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @done bra ended; bra again; "
      "ended: }" ::"r"(offset(at)), "r"(parity) : "memory");
}
