// SPDX-License-Identifier: Apache-2.0
// Paged attention of many query tokens a sequence (prompts, chunks of them) on tensor cores.
//
//   paged_prefill_plan   grid 1; block PAB_PLAN_THREADS (a multiple of 32, at least kBuckets)
//                        shared: kScanWords u64 and kBuckets u32
//   paged_prefill        grid num_kv_heads * (num_query_tokens * group_size / kRows + num_seqs), the most blocks
//                        that any lengths make; block 32 * PAB_WARPS; shared: sizeof(SharedMemory)
//
// Layout   q, out (num_query_tokens, num_qo_heads, head_dim), rows qo_indptr[s]..qo_indptr[s+1] of sequence s; lse
//          (num_query_tokens, num_qo_heads) float, natural log; k, v any layout with contiguous head_dim, given by
//          three element strides (page, token, head); block_table (num_seqs, max_pages); all but the last two aligned
//          to 16 bytes, strides multiples of 16 bytes.
//          Sequences with fewer than min_query_len query tokens are left alone, as if they had none.
//          Workspace, which the plan writes: starts (num_seqs + 1) i32, order (grid / num_kv_heads) RowBlock.  One
//          plan serves all layers of a model.
// Compile  PAB_HEAD_DIM a multiple of 16; PAB_DTYPE 1 or 2; PAB_WARPS warps of a block; PAB_ROW_TILES 1 or 2, a warp has
//          16 times as many rows; PAB_TILE keys of a tile, a multiple of 16; PAB_STAGES tiles in shared memory, at least
//          2; PAB_BLOCKS blocks of a multiprocessor; PAB_PLAN_THREADS; PAB_SHARED_BYTES of paged_prefill, checked;
//          PAB_FEATURES and PAB_E4M3 0 or 1, see pab/features.cuh and pab/storage.cuh.
// Floor    4 * head_dim flops for each query head, row and key that the row sees.  K and V are read once for each
//          block of rows and KV head, from the first key that its first row sees to the last of its last row; meant to
//          come from L2.
//
// A block has kRows packed rows of one sequence and KV head, 16 or 32 a warp, and goes over its keys tile by tile; a warp
// reads each key and value from shared memory once for all of its rows.  Tiles come through a ring of kStages stages in
// shared memory; one barrier a tile.  Each row is summed in one place and in the order of its keys, in tiles that begin
// at multiples of kTile: its bits depend on its query, its keys and kTile, and on nothing else that is in the batch, in
// the block or in other chunks.
#include "pab/fragment_logits.cuh"
#include "pab/prefill_work.cuh"
#include "pab/query_tile.cuh"

namespace pab {

constexpr int kHeadDim = PAB_HEAD_DIM;
constexpr int kWarps = PAB_WARPS;
constexpr int kTile = PAB_TILE;
constexpr int kStages = PAB_STAGES;
constexpr int kThreads = 32 * kWarps;
constexpr int kRowTiles = PAB_ROW_TILES;  // of 16 rows, what a matrix instruction takes
constexpr int kWarpRows = 16 * kRowTiles;
constexpr int kRows = kWarpRows * kWarps;
constexpr int kChunks = kHeadDim / 8;  // of a row of q and out
constexpr bool kE4m3 = sizeof(Cached) == 1;
constexpr int kGroupRows = kTile;
constexpr int kCopiesAtOnce = kTile;  // all
constexpr int kSteps = kHeadDim / 16;  // matrix instructions along head_dim
constexpr int kPairs = kTile / 16;     // of 8 keys each: what one ldmatrix brings
// the query stays in registers while the outputs, and what e4m3 is widened in, leave room for it
constexpr bool kQueryInRegisters = kRowTiles == 1 && kHeadDim <= (kE4m3 ? 96 : 128);
// unrolled, a loop keeps an address for each step; else there are no registers left for that, least with a step over
constexpr int kFewSteps = kRowTiles == 2 ? kSteps / (2 - kSteps % 2) : kSteps % 2 == 0 ? 4 : kE4m3 ? 1 : 2;
constexpr int kUnrolledSteps = kQueryInRegisters ? kSteps : kFewSteps;
static_assert(kHeadDim % 16 == 0 && kTile % 16 == 0, "matrix instructions take 16 elements at a time");
static_assert(kStages >= 2, "one tile arrives while another is attended to");
static_assert(kTile <= kThreads, "a thread looks up one token of a tile");
static_assert(PAB_PLAN_THREADS >= kBuckets, "the plan sums the buckets at once");

struct Stage {
  Cached keys[kTile * kHeadDim], values[kTile * kHeadDim];
};

constexpr int kWorkBytes = 80;  // as much as it takes with features

// Keys that some row of a warp sees, and those that all of them do.
struct alignas(16) Seen {
  u32 some_begin, some_end, all_begin, all_end;
};

// What is rarely asked for and lies in shared memory where two row tiles leave no registers for it.
template <bool kTwoTiles>
struct Kept {};
template <>
struct alignas(16) Kept<true> {
  Seen seen[kWarps];
  u32 ends[kRows];                // each row sees keys before it
  unsigned char work[kWorkBytes];  // a Work
};

struct SharedMemory : Kept<kRowTiles == 2> {
  u16 queries[kRows * kHeadDim];  // at the end the output, each warp's rows where its queries were
  Stage stages[kStages];
  i64 rows[2][kTile];  // byte offsets of tokens; negative: no such token
};
static_assert(sizeof(Work) <= kWorkBytes, "the work fits its place");
static_assert(sizeof(SharedMemory) == PAB_SHARED_BYTES, "the launch plan computes the same size");

}  // namespace pab

#include "pab/tile_copy.cuh"

namespace pab {

// What a lane keeps of its two rows of 16: lane / 4, and 8 below.
struct State {
  float out[2 * kSteps][4];
  float max[2], sum[2];  // the sum is this lane's share
  LogitRow row[2];
  u32 query[kQueryInRegisters ? kSteps : 1][4];
};

// The page of the token of tile `tile` that this thread looks up; negative when no row of the block sees it.
PAB_FN i32 token_page(const Call& call, const Work& work, i32 tile) {
  const u32 token = static_cast<u32>(tile) * kTile + threadIdx.x, page_size = static_cast<u32>(call.page_size);
  if (threadIdx.x >= kTile || token >= static_cast<u32>(work.end)) return kNoToken;
  if (token < static_cast<u32>(work.begin)) return kNoToken;
  return call.block_table[static_cast<i64>(work.number) * call.max_pages + token / page_size];
}

// Starts the copies of the block's queries; rows past the last are zeros.
PAB_FN void fetch_queries(u16* queries, const Call& call, const Work& work) {
  for (int index = static_cast<int>(threadIdx.x); index < kRows * kChunks; index += kThreads) {
    const int row = index / kChunks, chunk = index % kChunks;
    const bool live = work.first_row + row <= work.last_row;
    const i64 source = live ? query_row(call, work, work.first_row + row) * kHeadDim + 8 * chunk : 0;
    cp_async16(queries + query_offset<kSteps>(row, chunk) / static_cast<int>(sizeof(u16)), call.q + source, live);
  }
}

}  // namespace pab

#include "pab/prefill_products.cuh"

namespace pab {

// Takes the ends of the lane's rows out of those of 16, where they are not kept in registers.
PAB_FN void fetch_ends(State& state, const u32* ends, int lane) {
  if constexpr (kRowTiles == 2) {
    state.row[0].end = ends[lane / 4];
    state.row[1].end = ends[lane / 4 + 8];
  }
}

// Where the block's work, what the warp sees and the ends of the block's rows are kept: `own` is the thread's.
template <typename Memory>
PAB_FN Work& work_place(Memory& memory, Work& own) {
  if constexpr (kRowTiles == 2) return *reinterpret_cast<Work*>(memory.work);
  else return own;
}
template <typename Memory>
PAB_FN Seen& seen_place(Memory& memory, Seen& own) {
  if constexpr (kRowTiles == 2) return memory.seen[threadIdx.x / kWarpSize];
  else return own;
}
template <typename Memory>
PAB_FN u32* ends_place(Memory& memory, int row) {
  if constexpr (kRowTiles == 2) return memory.ends + row;
  else return nullptr;
}

// Turns the products of 16 rows and a tile of keys into weights: the state's maximum and sum go on to this tile's, and
// its output is scaled to that.  `first` and `masked` as of attend.
PAB_FN void weigh(u32 (&weights)[kPairs][4], State& state, float (&score)[2 * kPairs][4], const u32* ends,
                  const Features& features, float scale_log2, u32 first, bool masked, int lane) {
#pragma unroll
  for (int i = 0; i < 2 * kPairs; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const u32 token = first + 8 * i + 2 * (lane % 4) + j % 2;
      score[i][j] = seen_logit(features, state.row[j / 2], score[i][j], token, scale_log2);
    }
  }
  if (masked) {
    fetch_ends(state, ends, lane);
#pragma unroll
    for (int i = 0; i < 2 * kPairs; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const u32 token = first + 8 * i + 2 * (lane % 4) + j % 2;
        if (!sees_key(features, state.row[j / 2], token)) score[i][j] = minus_infinity();
      }
    }
  }

  float top[2] = {minus_infinity(), minus_infinity()};
#pragma unroll
  for (int i = 0; i < 2 * kPairs; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) top[j / 2] = fmaxf(top[j / 2], score[i][j]);
  }
  float base[2], rescale[2];
  bool moved = false;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    top[half] = fmaxf(state.max[half], quad_max(top[half]));
    const bool higher = top[half] != state.max[half];
    base[half] = top[half] == minus_infinity() ? 0.0f : top[half];  // -inf - -inf would be NaN
    // exactly 1, not an approximation of it, so that a row does not depend on the others of its warp
    rescale[half] = higher ? ex2(state.max[half] - base[half]) : 1.0f;
    state.max[half] = top[half];
    moved |= higher;
  }
  if (any(kFullMask, moved)) {
#pragma unroll
    for (int half = 0; half < 2; ++half) state.sum[half] *= rescale[half];
#pragma unroll
    for (int i = 0; i < 2 * kSteps; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) state.out[i][j] *= rescale[j / 2];
    }
  }
  float sum[2] = {0.0f, 0.0f};  // of this tile, so that chains of additions stay short
#pragma unroll
  for (int i = 0; i < 2 * kPairs; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      score[i][j] = ex2(score[i][j] - base[j / 2]);
      sum[j / 2] += score[i][j];
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) state.sum[half] += sum[half];

#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair) {
    // accumulators of the first product are, rounded, operand A of the second
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float(&pairs)[4] = score[2 * pair + i / 2];
      weights[pair][i] = pack_pair(pairs[2 * (i % 2)], pairs[2 * (i % 2) + 1]);
    }
  }
}

// Attends to a tile whose first key is `first`; `masked` when some row of the warp does not see all of it.
PAB_FN void attend(State (&states)[kRowTiles], const Stage& stage, const u16* queries, const u32* ends,
                   const Features& features, float scale_log2, u32 first, bool masked) {
  // else the places of all chunks would be kept from tile to tile, more than there are registers for
  const int lane = static_cast<int>(opaque(lane_id()));
  float score[kRowTiles][2 * kPairs][4] = {};
  multiply_keys(score, states, queries, stage.keys, lane);
  u32 weights[kRowTiles][kPairs][4];
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
    weigh(weights[tile], states[tile], score[tile], ends + 16 * tile, features, scale_log2, first, masked, lane);
  }
#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair) multiply_values(states, weights, stage.values, pair, lane);
}

}  // namespace pab

#include "pab/prefill_output.cuh"

extern "C" __global__ void __launch_bounds__(PAB_PLAN_THREADS) paged_prefill_plan(
    const pab::i32* kv_lens, const pab::i32* qo_indptr, pab::i32* starts, pab::RowBlock* order, pab::i32 num_seqs,
    pab::i32 num_kv_heads, pab::i32 group_size, pab::i32 min_query_len, pab::i32 causal PAB_FEATURE_PARAMETERS) {
  using namespace pab;
  PAB_SHARED(shared);
  const Features features = PAB_GIVEN_FEATURES(num_kv_heads * group_size);
  const Batch batch = {kv_lens, qo_indptr, num_seqs, group_size, causal, features};
  u64* scan = reinterpret_cast<u64*>(shared);
  order_blocks<kRows, kTile>(batch, min_query_len, starts, order, reinterpret_cast<u32*>(scan + kScanWords), scan);
}

extern "C" __global__ void __launch_bounds__(32 * PAB_WARPS, PAB_BLOCKS) paged_prefill(
    const pab::Stored* q, const pab::Cached* k, const pab::Cached* v, const pab::i32* block_table,
    const pab::i32* kv_lens, const pab::i32* qo_indptr, pab::Stored* out, float* lse, const pab::i32* starts,
    const pab::RowBlock* order, pab::i32 num_seqs, pab::i32 num_qo_heads, pab::i32 num_kv_heads, pab::i32 page_size,
    pab::i32 max_pages, pab::i32 causal, pab::i64 page_stride, pab::i64 token_stride, pab::i64 head_stride,
    float scale_log2 PAB_FEATURE_PARAMETERS) {
  using namespace pab;
  PAB_SHARED(shared);
  SharedMemory& memory = *reinterpret_cast<SharedMemory*>(shared);
  const i32 number = static_cast<i32>(blockIdx.x) / num_kv_heads;
  if (number >= starts[num_seqs]) return;
  const Call call = {q,         k,           v,            block_table, out,       lse, num_qo_heads, page_size,
                     max_pages, page_stride, token_stride, head_stride, scale_log2};
  const Features features = PAB_GIVEN_FEATURES(num_qo_heads);
  const Batch batch = {kv_lens, qo_indptr, num_seqs, num_qo_heads / num_kv_heads, causal, features};
  Work own_work;
  Work& work = work_place(memory, own_work);
  if (kRowTiles == 1 || threadIdx.x == 0) {
    const RowBlock block = load_wide(&order[number]);
    work = {sequence_of(batch, block.sequence), block.sequence, static_cast<i32>(blockIdx.x) % num_kv_heads,
            block.first_row, block.first_row + kRows - 1, 0, 0, 0, 0};
    if (work.last_row >= work.sequence.rows()) work.last_row = work.sequence.rows() - 1;
    work.begin = work.sequence.oldest(work.first_row);
    work.end = work.sequence.limit(work.last_row);
    work.first_tile = work.begin / kTile;
    work.tiles = work.end / kTile + (work.end % kTile != 0) - work.first_tile;
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
  u16* queries = memory.queries + kWarpRows * kHeadDim * warp;
  State states[kRowTiles] = {};
#pragma unroll
  for (int i = 0; i < 2 * kRowTiles; ++i) {
    State& state = states[i / 2];
    const i32 row = first_row + static_cast<i32>(lane_id()) / 4 + 8 * i, head = query_head(work, row), half = i % 2;
    const i32 position = work.sequence.position(row);
    const u32 limit = static_cast<u32>(work.sequence.limit(row));
    state.row[half] = logit_row(features, head, position, limit, scale_log2);
    if (kRowTiles == 2 && lane_id() % 4 == 0) *ends_place(memory, row - work.first_row) = limit;
    // a sink is one more key, without a value
    state.max[half] = sink_log2(features, head);
    state.sum[half] = lane_id() % 4 == 0 && state.max[half] > minus_infinity() ? 1.0f : 0.0f;
  }
  if constexpr (kRowTiles == 2) warp_sync(kFullMask);  // the warp's ends are there, whether or not there are tiles

  // Tokens of tile n are looked up kStages tiles ahead and fetched kStages - 1 ahead, each step a barrier after the
  // one before.  A group of copies is committed a tile, also when there is nothing left to fetch.
  // With two row tiles no register is left for places that are the same in all tiles: they are computed in each.
  const auto this_thread = [&] { return kRowTiles == 2 ? opaque(threadIdx.x) : threadIdx.x; };
  const auto fetch = [&](i32 n) {
    const auto stage = [&](int) -> Stage& { return memory.stages[n % kStages]; };
    if (n < work.tiles) copy_tile(memory.rows[n % 2], call, stage, this_thread());
    cp_async_commit();
  };
  const auto look_up = [&](i32 n) { return token_page(call, work, first_tile + n); };
  const auto note = [&](i32 n, i32 page) {
    const u32 thread = this_thread(), token = static_cast<u32>(first_tile + n) * kTile + thread;
    note_token(memory.rows[n % 2], call, work.kv_head, token, page, thread);
  };
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
    const u32 first = static_cast<u32>(first_tile + n) * kTile, end = first + kTile;
    const Seen& seen = seen_place(memory, own_seen);
    if (first < seen.some_end && (!kFeatures || end > seen.some_begin)) {
      const bool masked = (kFeatures && first < seen.all_begin) || end > seen.all_end;
      const u32* ends = ends_place(memory, kWarpRows * static_cast<int>(threadIdx.x / kWarpSize));
      attend(states, memory.stages[n % kStages], queries, ends, features, scale_log2, first, masked);
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
    write_rows(states[tile], last.queries + kHeadDim * row, call, done, done.first_row + row);
  }
}
