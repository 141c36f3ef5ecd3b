// SPDX-License-Identifier: Apache-2.0
// Page allocators without an order: every thread serves a request of its own, at the same time as the others.
//
//   page_pool_extend, page_pool_free   grid ceil(max_seqs / 128); block 128; no shared memory
//   page_pool_batch                    grid ceil((takers + givers) / 128); block 128
//   page_pool_churn                    any grid; block a multiple of 32, at most 128
//
// Layout   words, store: the pool, see pab/pool_ticket.cuh and pab/pool_stack.cuh; store_mask: its capacity less 1, where
//          that is a power of two.  Tables, requests and results: pab/page_requests.cuh.
// Compile  PAB_POOL: 0 ring with tickets, 1 lock-free stack; PAB_TAG_BITS, PAB_STALL for tests.
// Floor    see the pools.
#if PAB_POOL == 0
#include "pab/pool_ticket.cuh"
#define PAB_MAKE_POOL(stall) ::pab::TicketPool{words, store, store_mask, stall}
#elif PAB_POOL == 1
#include "pab/pool_stack.cuh"
#define PAB_MAKE_POOL(stall) ::pab::StackPool{words, store, stall}
#else
#error "PAB_POOL must be 0 or 1"
#endif

extern "C" __global__ void __launch_bounds__(128) page_pool_extend(
    const pab::i32* sequences, const pab::i32* tokens, const pab::i64* token_starts, pab::u64* words, pab::u32* store,
    pab::i32* lengths, pab::i32* block_table, pab::i64* slot_mapping, pab::i32* results, pab::u32 store_mask,
    pab::i32 max_seqs, pab::i32 max_pages, pab::i32 page_size) {
  const pab::i32 thread = static_cast<pab::i32>(blockIdx.x * blockDim.x + threadIdx.x);
  auto pool = PAB_MAKE_POOL((pab::Stall{nullptr, 0, false}));
  pab::extend_entry(pool, thread, sequences, tokens, token_starts, lengths, block_table, slot_mapping, results, max_seqs,
                    max_pages, page_size);
}

extern "C" __global__ void __launch_bounds__(128) page_pool_free(
    const pab::i32* sequences, pab::u64* words, pab::u32* store, pab::i32* lengths, pab::i32* block_table,
    pab::i32* results, pab::u32 store_mask, pab::i32 max_seqs, pab::i32 max_pages, pab::i32 page_size) {
  const pab::i32 thread = static_cast<pab::i32>(blockIdx.x * blockDim.x + threadIdx.x);
  auto pool = PAB_MAKE_POOL((pab::Stall{nullptr, 0, false}));
  pab::free_entry(pool, thread, sequences, lengths, block_table, results, max_seqs, max_pages, page_size);
}

extern "C" __global__ void __launch_bounds__(128) page_pool_batch(
    const pab::i32* counts, const pab::i32* frees, pab::u64* words, pab::u32* store, pab::u32* owners,
    pab::u32* owner_words, pab::u32* violations, pab::i32* out, pab::i32* served, pab::u32 store_mask,
    pab::i32 takers, pab::i32 givers, pab::i32 width) {
  const pab::i32 thread = static_cast<pab::i32>(blockIdx.x * blockDim.x + threadIdx.x);
  auto pool = PAB_MAKE_POOL((pab::Stall{nullptr, 0, false}));
  const pab::Stamps stamps{owners, owner_words, violations};
  pab::batch_entry(pool, stamps, thread, counts, frees, out, served, takers, givers, width);
}

extern "C" __global__ void __launch_bounds__(128) page_pool_churn(
    pab::u64* words, pab::u32* store, pab::u32* owners, pab::u32* owner_words, pab::u32* violations, pab::i32* out,
    pab::i32* served, pab::u32* ended, pab::u32 store_mask, pab::i32 rounds, pab::i32 most) {
  const pab::u32 thread = blockIdx.x * blockDim.x + threadIdx.x;
  const pab::Stall stall{ended, gridDim.x * blockDim.x - pab::kWarpSize, thread < pab::kWarpSize};
  auto pool = PAB_MAKE_POOL(stall);
  const pab::Stamps stamps{owners, owner_words, violations};
  pab::churn_entry(pool, stamps, thread, out, served, ended, rounds, most);
}
