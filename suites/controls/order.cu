// SPDX-License-Identifier: Apache-2.0
// Controls of class race about memory order: data that one block hands to another through atomics and fences.
//
// Grid, block and shared memory of each kernel stand in controls.toml; they are tiny, no floor is aimed at.
#include "pab/intrinsics.cuh"

// --- the block that is done last sums up ---------------------------------------------------------------------
extern "C" __global__ void last_block_without_fences(pab::u32* partial, pab::u32* done, pab::u32* out) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  partial[blockIdx.x] = blockIdx.x + 1;
  if (atomic_add(done, 1u) + 1 < gridDim.x) return;
  u32 sum = 0;
  for (u32 b = 0; b < gridDim.x; ++b) {
    sum += partial[b];  // FAULT: a relaxed counter orders nothing else
  }
  out[0] = sum;
}

extern "C" __global__ void last_block_without_release(pab::u32* partial, pab::u32* done, pab::u32* out) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  partial[blockIdx.x] = blockIdx.x + 1;
  if (atomic_add(done, 1u) + 1 < gridDim.x) return;
  fence_device();
  u32 sum = 0;
  for (u32 b = 0; b < gridDim.x; ++b) {
    sum += partial[b];  // FAULT: the writers have no fence before the counter
  }
  out[0] = sum;
}

extern "C" __global__ void last_block_without_acquire(pab::u32* partial, pab::u32* done, pab::u32* out) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  partial[blockIdx.x] = blockIdx.x + 1;
  fence_device();
  if (atomic_add(done, 1u) + 1 < gridDim.x) return;
  u32 sum = 0;
  for (u32 b = 0; b < gridDim.x; ++b) {
    sum += partial[b];  // FAULT: the reader has no fence after the counter
  }
  out[0] = sum;
}

extern "C" __global__ void last_block_with_block_fences(pab::u32* partial, pab::u32* done, pab::u32* out) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  partial[blockIdx.x] = blockIdx.x + 1;
  fence_block();
  if (atomic_add(done, 1u) + 1 < gridDim.x) return;
  fence_block();
  u32 sum = 0;
  for (u32 b = 0; b < gridDim.x; ++b) {
    sum += partial[b];  // FAULT: fences of the block's scope, data of other blocks
  }
  out[0] = sum;
}

extern "C" __global__ void last_block_with_fences(pab::u32* partial, pab::u32* done, pab::u32* out) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  partial[blockIdx.x] = blockIdx.x + 1;
  fence_device();
  if (atomic_add(done, 1u) + 1 < gridDim.x) return;
  fence_device();
  u32 sum = 0;
  for (u32 b = 0; b < gridDim.x; ++b) sum += partial[b];
  out[0] = sum;
}

// All threads write, one thread speaks for the block: barrier, then its fence covers what the others wrote.
extern "C" __global__ void last_block_of_many_threads(pab::u32* partial, pab::u32* done, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* last = reinterpret_cast<u32*>(memory);
  partial[blockIdx.x * blockDim.x + threadIdx.x] = 1;
  block_sync();
  if (threadIdx.x == 0) {
    fence_device();
    *last = atomic_add(done, 1u) + 1 == gridDim.x;
    fence_device();
  }
  block_sync();
  if (*last == 0) return;
  u32 sum = 0;
  for (u32 b = 0; b < gridDim.x; ++b) sum += partial[b * blockDim.x + threadIdx.x];
  out[threadIdx.x] = sum;
}

extern "C" __global__ void last_block_speaks_too_early(pab::u32* partial, pab::u32* done, pab::u32* out) {
  using namespace pab;
  PAB_SHARED(memory);
  u32* last = reinterpret_cast<u32*>(memory);
  partial[blockIdx.x * blockDim.x + threadIdx.x] = 1;
  if (threadIdx.x == 0) {
    fence_device();
    *last = atomic_add(done, 1u) + 1 == gridDim.x;
    fence_device();
  }
  block_sync();
  if (*last == 0) return;
  u32 sum = 0;
  for (u32 b = 0; b < gridDim.x; ++b) {
    sum += partial[b * blockDim.x + threadIdx.x];  // FAULT: no barrier between the others' writes and thread 0's word
  }
  out[threadIdx.x] = sum;
}

// --- flags --------------------------------------------------------------------------------------------------
extern "C" __global__ void flag_raised_plainly(pab::u32* data, pab::u32* flag, pab::u32* out) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    data[0] = 42;
    *flag = 1;  // FAULT: a plain store is no release
  } else {
    while (ld_acquire(flag) == 0) {
    }
    out[0] = data[0];  // FAULT: so the data race as well
  }
}

extern "C" __global__ void flag_raised_relaxed(pab::u32* data, pab::u32* flag, pab::u32* out) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    data[0] = 42;
    atomic_exch(flag, 1u);
  } else {
    while (ld_acquire(flag) == 0) {
    }
    out[0] = data[0];  // FAULT: the exchange releases nothing
  }
}

extern "C" __global__ void data_read_before_the_flag(pab::u32* data, pab::u32* flag, pab::u32* out) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    data[0] = 42;
    st_release(flag, 1u);
  } else {
    const u32 early = data[0];  // FAULT: the wait comes after
    while (ld_acquire(flag) == 0) {
    }
    out[0] = early;
  }
}

extern "C" __global__ void flag_raised_with_release(pab::u32* data, pab::u32* flag, pab::u32* out) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    data[0] = 42;
    st_release(flag, 1u);
  } else {
    while (ld_acquire(flag) == 0) {
    }
    out[0] = data[0];
  }
}

// A fence and a relaxed exchange release as well.
extern "C" __global__ void flag_raised_after_a_fence(pab::u32* data, pab::u32* flag, pab::u32* out) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    data[0] = 42;
    fence_device();
    atomic_exch(flag, 1u);
  } else {
    while (ld_acquire(flag) == 0) {
    }
    out[0] = data[0];
  }
}

// One thread waits for the flag, the barrier hands what it learnt to the others.
extern "C" __global__ void flag_seen_by_one_thread(pab::u32* data, pab::u32* flag, pab::u32* out) {
  using namespace pab;
  if (blockIdx.x == 0) {
    data[threadIdx.x] = 2 * threadIdx.x;
    block_sync();
    if (threadIdx.x == 0) st_release(flag, 1u);
  } else {
    if (threadIdx.x == 0) {
      while (ld_acquire(flag) == 0) {
      }
    }
    block_sync();
    out[threadIdx.x] = data[blockDim.x - 1 - threadIdx.x];
  }
}

extern "C" __global__ void flag_seen_by_one_thread_only(pab::u32* data, pab::u32* flag, pab::u32* out) {
  using namespace pab;
  if (blockIdx.x == 0) {
    data[threadIdx.x] = 2 * threadIdx.x;
    block_sync();
    if (threadIdx.x == 0) st_release(flag, 1u);
  } else {
    if (threadIdx.x == 0) {
      while (ld_acquire(flag) == 0) {
      }
    }
    out[threadIdx.x] = data[blockDim.x - 1 - threadIdx.x];  // FAULT: no barrier, so only thread 0 has waited
  }
}

// --- locks --------------------------------------------------------------------------------------------------
extern "C" __global__ void lock_without_fences(pab::u32* lock, pab::u32* count) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  while (atomic_cas(lock, 0u, 1u) != 0) {
    while (ld_acquire(lock) != 0) {
    }
  }
  *count += 1;  // FAULT: the lock is relaxed
  atomic_exch(lock, 0u);
}

extern "C" __global__ void lock_with_fences(pab::u32* lock, pab::u32* count) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  while (atomic_cas(lock, 0u, 1u) != 0) {
    while (ld_acquire(lock) != 0) {
    }
  }
  fence_device();
  *count += 1;
  st_release(lock, 0u);
}

// --- scans --------------------------------------------------------------------------------------------------
// Each tile waits for the sum of all before it; tiles are taken in the order in which blocks start.
extern "C" __global__ void look_back_over_blocks(const pab::u32* in, pab::u32* next_tile, pab::u32* ready,
                                                 pab::u32* sums, pab::u32* out) {
  using namespace pab;
  const u32 lane = threadIdx.x;
  const u32 tile = shfl_idx(kFullMask, lane == 0 ? atomic_add(next_tile, 1u) : 0u, 0u);
  const u32 own = reduce_add(kFullMask, in[tile * kWarpSize + lane]);
  if (lane != 0) return;
  u32 before = 0;
  if (tile > 0) {
    while (ld_acquire(ready + tile - 1) == 0) {
    }
    before = sums[tile - 1];
  }
  sums[tile] = before + own;
  st_release(ready + tile, 1u);
  out[tile] = before;
}

extern "C" __global__ void look_back_that_does_not_wait(const pab::u32* in, pab::u32* next_tile, pab::u32* ready,
                                                        pab::u32* sums, pab::u32* out) {
  using namespace pab;
  const u32 lane = threadIdx.x;
  const u32 tile = shfl_idx(kFullMask, lane == 0 ? atomic_add(next_tile, 1u) : 0u, 0u);
  const u32 own = reduce_add(kFullMask, in[tile * kWarpSize + lane]);
  if (lane != 0) return;
  sums[tile] = own;
  st_release(ready + tile, 1u);
  u32 before = 0;
  for (u32 t = 0; t < tile; ++t) {
    before += sums[t];  // FAULT: whether tile t is ready was not asked
  }
  out[tile] = before;
}

// --- longer chains ------------------------------------------------------------------------------------------
// What is added to atomically may be read plainly once all that add are known to be done.
extern "C" __global__ void total_read_plainly_by_the_last(pab::u32* total, pab::u32* done, pab::u32* out) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  atomic_add(total, blockIdx.x + 1);
  fence_device();
  if (atomic_add(done, 1u) + 1 < gridDim.x) return;
  fence_device();
  out[0] = *total;
}

// The block that comes third has waited for the second only, and the second for the first.
extern "C" __global__ void order_through_a_third_block(pab::u32* next_role, pab::u32* data, pab::u32* flags,
                                                       pab::u32* out) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  const u32 role = atomic_add(next_role, 1u);
  if (role == 0) data[0] = 42;
  if (role > 0) {
    while (ld_acquire(flags + role - 1) == 0) {
    }
  }
  if (role == 2) out[0] = data[0];
  st_release(flags + role, 1u);
}

extern "C" __global__ void order_broken_in_the_middle(pab::u32* next_role, pab::u32* data, pab::u32* flags,
                                                      pab::u32* out) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  const u32 role = atomic_add(next_role, 1u);
  if (role == 0) data[0] = 42;
  if (role > 0) {
    while (ld_acquire(flags + role - 1) == 0) {
    }
  }
  if (role == 2) out[0] = data[0];  // FAULT: the second block passes the word on without release
  if (role == 1) {
    atomic_exch(flags + role, 1u);
  } else {
    st_release(flags + role, 1u);
  }
}

// Who has taken a number waits until it is served.
extern "C" __global__ void lock_by_tickets(pab::u32* next, pab::u32* served, pab::u32* count) {
  using namespace pab;
  if (threadIdx.x != 0) return;
  const u32 mine = atomic_add(next, 1u);
  while (ld_acquire(served) != mine) {
  }
  *count += 1;
  st_release(served, mine + 1);
}

// All blocks wait for all: arrive, then look until everybody has.
extern "C" __global__ void barrier_of_the_grid(pab::u32* arrived, pab::u32* data, pab::u32* out) {
  using namespace pab;
  data[blockIdx.x * blockDim.x + threadIdx.x] = blockIdx.x * blockDim.x + threadIdx.x;
  block_sync();
  if (threadIdx.x == 0) {
    fence_device();
    atomic_add(arrived, 1u);
    while (ld_acquire(arrived) < gridDim.x) {
    }
  }
  block_sync();
  const u32 other = gridDim.x - 1 - blockIdx.x;
  out[other * blockDim.x + threadIdx.x] = data[other * blockDim.x + threadIdx.x];
}

extern "C" __global__ void barrier_of_the_grid_without_fence(pab::u32* arrived, pab::u32* data, pab::u32* out) {
  using namespace pab;
  data[blockIdx.x * blockDim.x + threadIdx.x] = blockIdx.x * blockDim.x + threadIdx.x;
  block_sync();
  if (threadIdx.x == 0) {
    atomic_add(arrived, 1u);
    while (ld_acquire(arrived) < gridDim.x) {
    }
  }
  block_sync();
  const u32 other = gridDim.x - 1 - blockIdx.x;
  out[other * blockDim.x + threadIdx.x] = data[other * blockDim.x + threadIdx.x];  // FAULT: nobody released it
}
