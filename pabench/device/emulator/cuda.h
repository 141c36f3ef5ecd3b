// SPDX-License-Identifier: Apache-2.0
// CUDA's spellings for the emulated device: included before a kernel file that is compiled as C++20.
//
// Static __shared__ arrays are not offered: an emulated block could neither poison nor check them.  Kernels
// take dynamic shared memory through PAB_SHARED (pab/intrinsics.cuh).
#pragma once

#include <bit>
#include <cstring>

#include "emulator/lane.h"
#include "emulator/maths.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict

#ifdef PAB_EMU_CHECKED
#include "emulator/checked/hooks.h"
#define threadIdx (::pab_emu::thread_index())
#define blockIdx (::pab_emu::block_index())
#define blockDim (::pab_emu::block_dim())
#define gridDim (::pab_emu::grid_dim())
#else
#define threadIdx (::pab_emu::current->thread)
#define blockIdx (::pab_emu::current->block->index)
#define blockDim (::pab_emu::current->block->block)
#define gridDim (::pab_emu::current->block->grid)
#endif

inline void __syncthreads() { ::pab_emu::barrier(0, ::pab_emu::kAllThreads, true); }
