// SPDX-License-Identifier: Apache-2.0
// Paged attention of many query tokens a sequence (prompts, chunks of them) on tensor cores.
//
//   paged_prefill_plan   grid 1; block PAB_PLAN_THREADS (a multiple of 32, at least kBuckets)
//                        shared: kScanWords u64 and kBuckets u32; with PAB_MASKS launched twice, with listing 1 first and
//                        a grid of the most blocks of rows, num_query_tokens * group_size / kRows + num_seqs
//   paged_prefill        grid num_kv_heads * (num_query_tokens * group_size / kRows + num_seqs), the most blocks
//                        that any lengths make; block 32 * PAB_WARPS; shared: sizeof(SharedMemory)
//
// Layout   q (num_query_tokens, num_qo_heads, head_dim), out likewise of head_dim_v, rows qo_indptr[s]..qo_indptr[s+1]
//          of sequence s; lse (num_query_tokens, num_qo_heads) float, natural log; k, v any layout with contiguous rows,
//          given by three element strides (page, token, head), of v by three of its own when PAB_HEAD_DIM_V is there;
//          block_table (num_seqs, max_pages); all but the last two aligned to 16 bytes, strides multiples of 16 bytes.
//          Sequences with fewer than min_query_len query tokens are left alone, as if they had none.
//          Workspace, which the plan writes: starts (num_seqs + 1) i32, order (grid / num_kv_heads) RowBlock; with
//          PAB_MASKS live_tiles (grid / num_kv_heads, tiles_of_row) and live_counts (grid / num_kv_heads) besides.
//          One plan serves all layers of a model.
// Compile  PAB_HEAD_DIM a multiple of 16; PAB_HEAD_DIM_V likewise, see pab/values_apart.cuh; PAB_DTYPE 1 or 2; PAB_WARPS
//          warps of a block; PAB_ROW_TILES 1 or 2, a warp has 16 times as many rows; PAB_TILE keys of a tile, a multiple
//          of 16; PAB_STAGES tiles in shared memory, at least 2; PAB_BLOCKS blocks of a multiprocessor;
//          PAB_PLAN_THREADS; PAB_SHARED_BYTES of paged_prefill, checked; PAB_FEATURES, PAB_E4M3 and PAB_MASKS 0 or 1, see
//          pab/features.cuh, pab/storage.cuh and pab/mask_bits.cuh; PAB_MASKS takes 1 row tile and tiles of 32 or 64.
// Floor    2 * (head_dim + head_dim_v) flops for each query head, row and key that the row sees.  K and V are read once
//          for each block of rows and KV head, from the first key that its first row sees to the last of its last row,
//          with PAB_MASKS those that some row of it sees; meant to come from L2.
//
// A block has kRows packed rows of one sequence and KV head, 16 or 32 a warp, and goes over its keys tile by tile; a warp
// reads each key and value from shared memory once for all of its rows.  Tiles come through a ring of kStages stages in
// shared memory; one barrier a tile.  Each row is summed in one place and in the order of its keys, in tiles that begin
// at multiples of kTile: its bits depend on its query, its keys and kTile, and on nothing else that is in the batch, in
// the block or in other chunks.
#include "pab/fragment_logits.cuh"
#include "pab/prefill_live.cuh"
#include "pab/query_tile.cuh"
#include "pab/values_apart.cuh"

namespace pab {

constexpr int kHeadDim = PAB_HEAD_DIM;
constexpr int kWarps = PAB_WARPS;
constexpr int kTile = PAB_TILE;
constexpr int kStages = PAB_STAGES;
constexpr int kThreads = 32 * kWarps;
constexpr int kRowTiles = PAB_ROW_TILES;  // of 16 rows, what a matrix instruction takes
constexpr int kWarpRows = 16 * kRowTiles;
constexpr int kRows = kWarpRows * kWarps;
constexpr int kChunks = kHeadDim / 8, kOutChunks = kValueDim / 8;  // of a row of q, of out
// elements of shared memory for a row: its query, at the end its output
constexpr int kRowRoom = kHeadDim > kValueDim ? kHeadDim : kValueDim;
constexpr bool kE4m3 = sizeof(Cached) == 1;
constexpr int kGroupRows = kTile;
[[maybe_unused]] constexpr int kCopiesAtOnce = kTile;  // all
constexpr int kSteps = kHeadDim / 16, kValueSteps = kValueDim / 16;  // matrix instructions along a row
constexpr int kPairs = kTile / 16;     // of 8 keys each: what one ldmatrix brings
[[maybe_unused]] constexpr int kTileWords = kTile / 32;  // of a mask
// the query stays in registers while the outputs, and what e4m3 is widened in, leave room for it
constexpr bool kQueryInRegisters = kRowTiles == 1 && kHeadDim + 2 * kValueDim <= 3 * (kE4m3 ? 96 : 128);
// unrolled, a loop keeps an address for each step; else there are no registers left for that, least with a step over
constexpr int kFewSteps = kRowTiles == 2 ? kSteps / (2 - kSteps % 2) : kSteps % 2 == 0 ? 4 : kE4m3 ? 1 : 2;
constexpr int kUnrolledSteps = kQueryInRegisters ? kSteps : kFewSteps;
static_assert(kHeadDim % 16 == 0 && kValueDim % 16 == 0, "matrix instructions take 16 elements at a time");
static_assert(kTile % 16 == 0, "and 16 keys");
static_assert(kStages >= 2, "one tile arrives while another is attended to");
static_assert(kTile <= kThreads, "a thread looks up one token of a tile");
static_assert(!kMasks || kRowTiles == 1, "the bits of two rows a lane");
static_assert(PAB_PLAN_THREADS >= kBuckets, "the plan sums the buckets at once");

}  // namespace pab

#include "pab/prefill_memory.cuh"
#include "pab/tile_apart.cuh"

namespace pab {

// The page of the token of tile `tile` that this thread looks up; negative when no row of the block sees it.
PAB_FN i32 token_page(const Call& call, const Work& work, i32 tile) {
  const u32 token = static_cast<u32>(tile) * kTile + threadIdx.x, page_size = static_cast<u32>(call.page_size);
  if (threadIdx.x >= kTile || token >= static_cast<u32>(work.end)) return kNoToken;
  if (token < static_cast<u32>(work.begin)) return kNoToken;
  return call.block_table[static_cast<i64>(work.number) * call.max_pages + token / page_size];
}

// Likewise of the n-th tile that the block attends to; the n-th tile itself.
template <typename Memory>
PAB_FN i32 token_page(const Memory& memory, const Call& call, const Work& work, i32 first_tile, i32 n) {
  if constexpr (kMasks) {
    if (n >= work.tiles || threadIdx.x >= kTile) return kNoToken;
    const LiveTile& live = memory.live[n % kLive];
    if ((live.seen[threadIdx.x / 32] >> (threadIdx.x % 32) & 1) == 0) return kNoToken;
    const u32 token = static_cast<u32>(live.tile) * kTile + threadIdx.x;
    return call.block_table[static_cast<i64>(work.number) * call.max_pages + token / static_cast<u32>(call.page_size)];
  } else {
    return token_page(call, work, first_tile + n);
  }
}
template <typename Memory>
PAB_FN i32 tile_of(const Memory& memory, const Work& work, i32 first_tile, i32 n) {
  if constexpr (kMasks) return n < work.tiles ? memory.live[n % kLive].tile : 0;
  else return first_tile + n;
}

// Byte offset of chunk `chunk` of the query of row `row` of the block.
PAB_FN int query_place(int row, int chunk) {
  if constexpr (kRowRoom == kHeadDim) return query_offset<kSteps>(row, chunk);
  else return row / 16 * 16 * kRowRoom * static_cast<int>(sizeof(u16)) + query_offset<kSteps>(row % 16, chunk);
}

// Starts the copies of the block's queries; rows past the last are zeros.
PAB_FN void fetch_queries(u16* queries, const Call& call, const Work& work) {
  for (int index = static_cast<int>(threadIdx.x); index < kRows * kChunks; index += kThreads) {
    const int row = index / kChunks, chunk = index % kChunks;
    const bool live = work.first_row + row <= work.last_row;
    const i64 source = live ? query_row(call, work, work.first_row + row) * kHeadDim + 8 * chunk : 0;
    cp_async16(queries + query_place(row, chunk) / static_cast<int>(sizeof(u16)), call.q + source, live);
  }
}

}  // namespace pab

#include "pab/prefill_output.cuh"
#include "pab/prefill_softmax.cuh"

extern "C" __global__ void __launch_bounds__(PAB_PLAN_THREADS) paged_prefill_plan(
    const pab::i32* kv_lens, const pab::i32* qo_indptr, pab::i32* starts, pab::RowBlock* order, pab::i32 num_seqs,
    pab::i32 num_kv_heads, pab::i32 group_size, pab::i32 min_query_len,
    pab::i32 causal PAB_FEATURE_PARAMETERS PAB_MASK_PARAMETERS PAB_LIST_PARAMETERS) {
  using namespace pab;
  grid_release();  // what attends waits for the end of this all the same
  PAB_SHARED(shared);
  const Features features = PAB_GIVEN_FEATURES(num_kv_heads * group_size);
  const Batch batch = {kv_lens, qo_indptr, num_seqs, group_size, causal, features};
  u64* scan = reinterpret_cast<u64*>(shared);
  if (list_tiles<kRows, kWarpRows, kTile>(batch, PAB_GIVEN_MASK, PAB_GIVEN_LISTING, min_query_len, scan)) return;
  u32* counts = reinterpret_cast<u32*>(scan + kScanWords);
  order_blocks<kRows, kTile>(batch, min_query_len, starts, order, counts, scan, PAB_GIVEN_COST(kRows, kTile));
}

extern "C" __global__ void __launch_bounds__(32 * PAB_WARPS, PAB_BLOCKS) paged_prefill(
    const pab::Stored* q, const pab::Cached* k, const pab::Cached* v, const pab::i32* block_table,
    const pab::i32* kv_lens, const pab::i32* qo_indptr, pab::Stored* out, float* lse, const pab::i32* starts,
    const pab::RowBlock* order, pab::i32 num_seqs, pab::i32 num_qo_heads, pab::i32 num_kv_heads, pab::i32 page_size,
    pab::i32 max_pages, pab::i32 causal, pab::i64 page_stride, pab::i64 token_stride,
    pab::i64 head_stride PAB_VALUE_PARAMETERS,
    float scale_log2 PAB_FEATURE_PARAMETERS PAB_MASK_PARAMETERS PAB_LIVE_PARAMETERS) {
  using namespace pab;
  grid_wait();
  PAB_SHARED(shared);
  SharedMemory& memory = *reinterpret_cast<SharedMemory*>(shared);
  const i32 number = static_cast<i32>(blockIdx.x) / num_kv_heads;
  if (number >= starts[num_seqs]) return;
  const Call call = {q,         k,           v,            block_table, out,
                     lse,       num_qo_heads, page_size,    max_pages,   page_stride,
                     token_stride, head_stride, PAB_GIVEN_VALUE_STRIDES, scale_log2};
  const Features features = PAB_GIVEN_FEATURES(num_qo_heads);
  const Batch batch = {kv_lens, qo_indptr, num_seqs, num_qo_heads / num_kv_heads, causal, features};
  const LiveLists lists = PAB_GIVEN_LIVE(kTile);
  Work own_work;
  Work& work = work_place(memory, own_work);
  if (kRowTiles == 1 || threadIdx.x == 0) {
    const RowBlock block = load_wide(&order[number]);
    work = {sequence_of(batch, block.sequence), block.sequence, static_cast<i32>(blockIdx.x) % num_kv_heads,
            block.first_row, block.first_row + kRows - 1, 0, 0, 0, 0};
    if (work.last_row >= work.sequence.rows()) work.last_row = work.sequence.rows() - 1;
    work.begin = work.sequence.oldest(work.first_row);
    work.end = work.sequence.limit(work.last_row);
    work.first_tile = work.begin / kTile;  // with masks the number of the block's list
    work.tiles = work.end / kTile + (work.end % kTile != 0) - work.first_tile;
    count_live(work, lists, batch);
  }
  if constexpr (kRowTiles == 2) block_sync();
  const i32 first_tile = kFeatures ? work.first_tile : 0;  // only a window hides the first keys

  const i32 warp = static_cast<i32>(threadIdx.x / kWarpSize), first_row = work.first_row + kWarpRows * warp;
  const i32 last_row = first_row + kWarpRows - 1 < work.last_row ? first_row + kWarpRows - 1 : work.last_row;
  Seen own_seen;
  if (kRowTiles == 1 || lane_id() == 0) {
    Seen& seen = seen_place(memory, own_seen);
    seen.some_begin = static_cast<u32>(work.sequence.oldest(first_row));
    seen.some_end = first_row > work.last_row ? 0 : static_cast<u32>(work.sequence.limit(last_row));
    seen.all_begin = static_cast<u32>(work.sequence.oldest(last_row));
    seen.all_end = static_cast<u32>(work.sequence.limit(first_row));
  }
  u16* queries = memory.queries + kWarpRows * kRowRoom * warp;
  State states[kRowTiles] = {};
#pragma unroll
  for (int i = 0; i < 2 * kRowTiles; ++i) {
    State& state = states[i / 2];
    const i32 row = first_row + static_cast<i32>(lane_id()) / 4 + 8 * i, head = query_head(work, row), half = i % 2;
    const i32 position = work.sequence.position(row);
    const u32 limit = static_cast<u32>(work.sequence.limit(row));
    state.row[half] = logit_row(features, head, position, kMasks ? 0 : limit, scale_log2);
    if (kRowTiles == 2 && lane_id() % 4 == 0) *ends_place(memory, row - work.first_row) = limit;
    // a sink is one more key, without a value
    state.max[half] = sink_log2(features, head);
    state.sum[half] = lane_id() % 4 == 0 && state.max[half] > minus_infinity() ? 1.0f : 0.0f;
  }
  const MaskRows mask = mask_rows(PAB_GIVEN_MASK, work, first_row + static_cast<i32>(lane_id()) / 4);
  if constexpr (kRowTiles == 2) warp_sync(kFullMask);  // the warp's ends are there, whether or not there are tiles

  // Tokens of tile n are looked up kStages tiles ahead and fetched kStages - 1 ahead, each step a barrier after the
  // one before.  A group of copies is committed a tile, also when there is nothing left to fetch.
  // With two row tiles no register is left for places that are the same in all tiles: they are computed in each.  Nor is
  // one where keys and values lie apart, for e4m3 beside the scores of 64 keys and for outputs of 256 elements.
  constexpr bool kNoPlaces = kRowTiles == 2 || (kApart && ((kE4m3 && kTile == 64) || kValueDim > 192));
  const auto this_thread = [&] { return kNoPlaces ? opaque(threadIdx.x) : threadIdx.x; };
  const auto fetch = [&](i32 n) {
    const auto stage = [&](int) -> Stage& { return memory.stages[n % kStages]; };
    if (n < work.tiles) copy_tokens(memory, n % 2, call, stage, this_thread());
    fetch_live(memory, lists, work, n + kStages);
    cp_async_commit();
  };
  const auto look_up = [&](i32 n) { return token_page(memory, call, work, first_tile, n); };
  const auto note = [&](i32 n, i32 page) {
    const u32 thread = this_thread(), tile = static_cast<u32>(tile_of(memory, work, first_tile, n));
    const u32 token = tile * kTile + thread;
    note_tokens(memory, n % 2, call, work.kv_head, token, page, thread);
  };
  begin_live(memory, lists, work);
  if (work.tiles > 0) {
    fetch_queries(memory.queries, call, work);
    note(0, look_up(0));
    block_sync();
  }
  for (i32 n = 0; n < kStages - 1 && work.tiles > 0; ++n) {
    fetch(n);
    note(n + 1, look_up(n + 1));
    block_sync();
  }
  for (i32 n = 0; n < work.tiles; ++n) {
    cp_async_wait<kStages - 2>();
    block_sync();
    fetch(n + kStages - 1);
    const i32 page = look_up(n + kStages);
    if constexpr (kQueryInRegisters) {
      if (n == 0) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) load_query<kSteps>(states[0].query[step], queries, step);
      }
    }
    const u32 first = static_cast<u32>(tile_of(memory, work, first_tile, n)) * kTile, end = first + kTile;
    const Seen& seen = seen_place(memory, own_seen);
    const bool within = first < seen.some_end && (!kFeatures || end > seen.some_begin);
    if (kMasks ? warp_sees_some(memory, n) : within) {
      const bool cut = (kFeatures && first < seen.all_begin) || end > seen.all_end;
      const bool masked = kMasks ? !warp_sees_all(memory, n) : cut;
      const u32* ends = ends_place(memory, kWarpRows * static_cast<int>(threadIdx.x / kWarpSize));
      attend(states, memory.stages[n % kStages], queries, ends, features, mask, scale_log2, first, masked);
    }
    note(n + kStages, page);  // behind the products: the table entry has had time to arrive
  }
  // asked for anew, so that no register holds the place of the memory through the tiles
  SharedMemory& last = *reinterpret_cast<SharedMemory*>(shared + (kRowTiles == 2 ? opaque(0) : 0));
  const Work& done = work_place(last, own_work);
  const i32 first_row_of_warp = kWarpRows * static_cast<i32>(threadIdx.x / kWarpSize);
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
    const i32 row = first_row_of_warp + 16 * tile;  // of the block
    if (done.first_row + row > done.last_row) break;
    fetch_ends(states[tile], ends_place(last, row), static_cast<int>(lane_id()));
    write_rows(states[tile], last.queries + kRowRoom * row, call, done, done.first_row + row);
  }
}
