// SPDX-License-Identifier: Apache-2.0
// What the decode kernels share: the arguments of a call, its packed rows, and a block's walk over the tiles of its
// share.
//
// Part of paged_decode.cu and paged_decode_latent.cu, not of others: it uses what these define before it: kTile, kStages,
// kWorks.
#pragma once

#include "pab/listed_logits.cuh"
#include "pab/storage.cuh"

namespace pab {

// The kernel's arguments.
struct Call {
  const Stored* q;
  const Cached *k, *v;
  const i32* block_table;
  Stored* out;
  float* lse;
  u32* arrivals;
  float *partial_out, *partial_max, *partial_sum;
  i32 num_qo_heads, page_size, max_pages, causal;
  i64 page_stride, token_stride, head_stride;
  float scale_log2;
};

}  // namespace pab

#include "pab/tile_rows.cuh"

namespace pab {

// Query head of packed row `row`.
PAB_FN i32 query_head(const Batch& batch, const Work& work, i32 row) {
  return work.kv_head * batch.group_size + row % batch.group_size;
}

// Packed row `row` of a sequence: the row of q and out is token * num_qo_heads + head.
PAB_FN i64 query_row(const Call& call, const Batch& batch, const Work& work, i32 row) {
  const i32 token = row / batch.group_size;
  return static_cast<i64>(work.first_query + token) * call.num_qo_heads + query_head(batch, work, row);
}

#if PAB_KEY_LISTS
// Where packed row `row` stands among the tokens of its sequence.
PAB_FN i32 row_position(const Batch& batch, const Work& work, i32 row) {
  return batch.kv_lens[work.sequence] - work.query_len + row / batch.group_size;
}

// Places of the list that packed row `row` may see: its bits say which of them it does.
PAB_FN u32 row_limit(const Call&, const Batch&, const Work& work, i32) { return static_cast<u32>(work.kv_len); }

PAB_FN bool sees_any(const Call&, const Batch& batch, const Work& work, i32 row) {
  return work.query_len == 1 ? work.kv_len > 0 : batch.lists.row_keys[listed_query(batch, work, row)] > 0;
}

// The token at the place that this thread looks up of a tile; negative for none.
PAB_FN i32 listed_token(const Batch& batch, const Work& work) {
  const u32 place = static_cast<u32>(work.tile) * kTile + threadIdx.x;
  if (work.tile < 0 || threadIdx.x >= kTile || place >= static_cast<u32>(work.kv_len)) return kNoToken;
  return batch.lists.positions[work.list + static_cast<i64>(place)];
}

// The same for one that is there.
PAB_FN u32 tile_token(const Work&, i32 listed) { return static_cast<u32>(listed); }

// The page of that token; negative for none.
PAB_FN i32 token_page(const Call& call, const Batch&, const Work& work, i32 listed) {
  if (listed < 0) return kNoToken;
  const u32 page = static_cast<u32>(listed) / static_cast<u32>(call.page_size);
  return call.block_table[static_cast<i64>(work.sequence) * call.max_pages + page];
}

#else
// Where packed row `row` stands among the tokens of its sequence.
PAB_FN i32 row_position(const Batch& batch, const Work& work, i32 row) {
  return work.kv_len - work.query_len + row / batch.group_size;
}

// Keys that packed row `row` sees: causal masks align at the bottom right.
PAB_FN u32 row_limit(const Call& call, const Batch& batch, const Work& work, i32 row) {
  const i32 later = call.causal ? work.query_len - 1 - row / batch.group_size : 0;
  return static_cast<u32>(work.kv_len > later ? work.kv_len - later : 0);
}

PAB_FN bool sees_any(const Call& call, const Batch& batch, const Work& work, i32 row) {
  return row_limit(call, batch, work, row) > 0;
}

PAB_FN i32 listed_token(const Batch&, const Work&) { return 0; }

// The token of a tile that this thread looks up.
PAB_FN u32 tile_token(const Work& work, i32) { return static_cast<u32>(work.tile) * kTile + threadIdx.x; }

// The page of the token of a tile that this thread looks up; negative for one that no row sees.
PAB_FN i32 token_page(const Call& call, const Batch& batch, const Work& work, i32) {
  const u32 token = static_cast<u32>(work.tile) * kTile + threadIdx.x, page_size = static_cast<u32>(call.page_size);
  if (work.tile < 0 || threadIdx.x >= kTile || token >= static_cast<u32>(work.kv_len)) return kNoToken;
  if (token < static_cast<u32>(first_seen(batch, work.kv_len, work.query_len))) return kNoToken;
  return call.block_table[static_cast<i64>(work.sequence) * call.max_pages + token / page_size];
}
#endif

constexpr u32 kFindAhead = kWorks - 1;  // in tiles

// Walks over the tiles of the block's share.  fetch(n) starts the copies of tile n to stage n % kStages, from
// memory.rows[n % 2]; attend(work, n) has them.
//
// Tile n of the share is found by one thread kStages + 1 tiles ahead, its tokens are looked up kStages ahead and
// fetched kStages - 1 ahead, each step a barrier after the one before.  A group of copies is committed a tile, also
// when there is nothing left to fetch.  With PAB_KEY_LISTS a tile's places become tokens a tile before those are looked
// up, and it is found a tile earlier: no load of the look-up waits for another.
template <typename Memory, typename Fetch, typename Attend>
PAB_FN void walk_tiles(Memory& memory, const Call& call, const Batch& batch, const i64* line, const i32* first,
                       i32 num_seqs, const Fetch& fetch, const Attend& attend) {
  const auto find = [&](u32 n) {
    if (threadIdx.x != 0) return;
    next_tile(memory.walk, batch);
    memory.works[n % kWorks] = memory.walk.work;
  };
  [[maybe_unused]] const auto listed = [&](u32 n) { return listed_token(batch, memory.works[n % kWorks]); };
  const auto look_up = [&](u32 n, i32 token) { return token_page(call, batch, memory.works[n % kWorks], token); };
  const auto note = [&](u32 n, i32 page, i32 token) {
    const Work& work = memory.works[n % kWorks];
    note_token(memory.rows[n % 2], call, work.kv_head, tile_token(work, token), page);
  };
  if (threadIdx.x == 0) {
    begin_walk(memory.walk, batch, line, first, num_seqs, blockIdx.x, gridDim.x);
    find(0);
    find(1);
    if constexpr (kKeyLists) find(2);
  }
  block_sync();
  i32 token = 0;  // on the list, at this thread's place of the tile that is looked up next
  if constexpr (kKeyLists) token = listed(0);
  note(0, look_up(0, token), token);
  if constexpr (kKeyLists) token = listed(1);
  block_sync();
  for (u32 n = 0; n < kStages - 1; ++n) {
    fetch(n);
    cp_async_commit();
    find(n + kFindAhead - kStages + 1);
    note(n + 1, look_up(n + 1, token), token);
    if constexpr (kKeyLists) token = listed(n + 2);
    block_sync();
  }

  PAB_REGION("tiles");
  for (u32 n = 0; memory.works[n % kWorks].tile >= 0; ++n) {
    cp_async_wait<kStages - 2>();
    block_sync();
    fetch(n + kStages - 1);
    cp_async_commit();
    find(n + kFindAhead);
    const i32 page = look_up(n + kStages, token);
    i32 next = 0;
    if constexpr (kKeyLists) next = listed(n + kStages + 1);
    attend(memory.works[n % kWorks], n);
    note(n + kStages, page, token);  // behind the products: the table entry has had time to arrive
    token = next;
  }
}

}  // namespace pab
