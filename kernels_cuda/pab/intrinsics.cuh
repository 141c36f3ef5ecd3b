// SPDX-License-Identifier: Apache-2.0
// The only door to the hardware: kernels include this header and use no intrinsic, no inline PTX, of their own.
//
// Two sides with the same declarations: intrinsics_cuda.cuh (PTX and CUDA built-ins, sm_80 and later) and
// emulator/intrinsics.h (portable C++ over fibers).  What each function promises is written here, once.
//
//   dynamic shared memory   PAB_SHARED(name)                  unsigned char* name, aligned to 16 bytes
//   counted region          PAB_REGION("name"): from here on the checked device counts what this thread does under
//                           that name, "" for none; nothing elsewhere
//   warp                    lane_id, shfl_xor / shfl_up / shfl_down / shfl_idx (float, u32, i32, u64, i64), ballot,
//                           any, all, match_any, reduce_add, warp_sync; all take the mask of taking part lanes,
//                           of which those that have returned are not waited for
//   bits                    popc, ffs (1-based, 0 for none), lanemask_lt; byte_permute(x, selector): byte i of the
//                           result is the byte of x that hexadecimal digit i of the selector, 0 to 3, names;
//                           byte_permute(x, y, selector): likewise, 4 to 7 are those of y
//   registers               opaque(x): x, of which the compiler knows nothing, so that what follows from it in a loop is
//                           computed each time and keeps no register from one time to the next;
//                           kept(pointer): pointer, which is not taken apart into what it was computed from, so that a
//                           loop keeps it in registers
//   block                   block_sync, bar_sync(id, threads), bar_arrive(id, threads)
//   grid                    grid_wait(): until the kernels before this one on its stream have ended, and what they wrote can
//                           be seen; a kernel that is launched to overlap them calls it before it touches memory.
//                           grid_release(): the next kernel, if it is launched so, may begin.  Both do nothing before sm_90,
//                           and in a kernel that is launched as usual
//   memory order            fence_block, fence_device, ld_acquire (u32, u64), st_release, ld_relaxed, st_relaxed (u32), device
//                           scope
//                           ld_system (u32): relaxed, and sees what the host writes to memory that both share
//   clocks                  cycle_count(): cycles of this multiprocessor; global_ns(): nanoseconds, the same everywhere
//   atomics                 atomic_add / max / min / exch / cas / or / and on u32, add / min / cas on u64;
//                           relaxed, device scope, return the old value
//   asynchronous copy       cp_async16(shared, global, valid): 16 bytes, zeros when not valid;
//                           cp_async16_there, cp_async4(shared, global, there): 16 and 4 bytes, zeros when `there` is
//                           negative, an instruction less where that is the sign of an offset;
//                           cp_async_commit; cp_async_wait<N>: all but the newest N groups have landed
//   math                    ex2, rcp: approximate, relative error up to 2^-22; lg2: the same, but an absolute
//                           error up to 2^-22 between 1/2 and 2; denormals are zeros to them; fmadd;
//                           minus_infinity; float_bits, float_of_bits: a float as a u32 and back
//                           fast_tanh: approximate, relative error up to 2^-11
//                           stored_float: x, a result of arithmetic on its way to memory; its NaN is 0x7FFFFFFF
//   conversion              half_to_float, float_to_half, bf16_to_float, float_to_bf16: bits in u16,
//                           rounding to nearest even; pack_f16x2, pack_bf16x2 (low, high), unpack_f16x2,
//                           unpack_bf16x2: two in a u32;
//                           e4m3_to_float, float_to_e4m3: bits in u8, what is too large becomes +-448;
//                           e4m3x2_to_f16x2: two in a u16, exact
//   pairs of 16 bits        fma_f16x2, fma_bf16x2 (a, b, c): a b + c of both, rounded once, to nearest even;
//                           denormals are numbers like others
//   matrix                  whole warps only; fragments as in the PTX ISA, repeated in emulator/matrix.h.
//                           ldmatrix_x4(out, row), ldmatrix_x4_trans: four 8 x 8 matrices of 16-bit elements from
//                           shared memory; lane i gives the address, a multiple of 16 bytes, of row i % 8 of
//                           matrix i / 8.  mma_16816_f16(c, a, b0, b1), mma_16816_bf16: c += a b with a 16 x 16,
//                           b 16 x 8; products exact, float sums whose order and rounding are open
#pragma once

#include "pab/types.cuh"

#ifdef __CUDACC__
#include "pab/intrinsics_cuda.cuh"
#else
#include "emulator/intrinsics.h"
#endif
