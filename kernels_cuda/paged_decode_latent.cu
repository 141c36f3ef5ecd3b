// SPDX-License-Identifier: Apache-2.0
// Paged decode attention over a latent cache (MLA, absorbed) on tensor cores: one vector a token is the key of all query
// heads, and its first elements are the value.
//
//   paged_decode_latent_plan   grid 1; block PAB_PLAN_THREADS (a multiple of 32); shared: kScanWords u64
//   paged_decode_latent        grid as of paged_decode.cu; block 32 * PAB_WARPS; shared: sizeof(SharedMemory)
//
// Layout   q (num_query_tokens, num_qo_heads, head_dim), out (num_query_tokens, num_qo_heads, head_dim_v); k any layout
//          with contiguous head_dim, by three element strides (page, token, head); the rest as in paged_decode.cu, with
//          units of PAB_UNIT_ROWS rows and partial_out (slot, unit row, head_dim_v).
// Compile  PAB_HEAD_DIM a multiple of 8; PAB_HEAD_DIM_V a multiple of 16 up to PAB_HEAD_DIM; PAB_DTYPE 1 or 2;
//          PAB_UNIT_ROWS 16 for each group of warps; PAB_WARPS a multiple of the groups; PAB_TILE tokens of a tile, a
//          multiple of 16 for each warp of a group; PAB_STAGES, PAB_BLOCKS, PAB_PLAN_THREADS, PAB_SHARED_BYTES,
//          PAB_FEATURES, PAB_KEY_LISTS as in paged_decode.cu.
// Floor    each live row once: sum(kv_lens) * head_dim * 2 bytes, times the units of PAB_UNIT_ROWS rows of
//          query_len * num_qo_heads; 2 * (head_dim + head_dim_v) flops for each row and key.  With PAB_KEY_LISTS only
//          rows that some query token of the sequence sees are read.
//
// The output of 16 rows is 512 columns wide, more than a warp has registers for.  So a group of warps shares 16 rows:
// for the first product each takes its own tokens of the tile, for the second its own columns of the values.  In
// between they meet twice, over the maximum and over the weights, which go through shared memory.  Both products read
// the tile that one copy has brought.
#include "pab/decode_plan.cuh"
#include "pab/listed_logits.cuh"
#include "pab/storage.cuh"

namespace pab {

constexpr int kHeadDim = PAB_HEAD_DIM;
constexpr int kValueDim = PAB_HEAD_DIM_V;
constexpr int kWarps = PAB_WARPS;
constexpr int kTile = PAB_TILE;
constexpr int kStages = PAB_STAGES;
constexpr int kThreads = 32 * kWarps;
constexpr int kWorks = kStages + 2 + kKeyLists;  // tiles between look-up and end
constexpr int kGroups = kUnitRows / 16;
constexpr int kGroupWarps = kWarps / kGroups;
constexpr int kWarpTokens = kTile / kGroupWarps;  // of a warp, for the first product
constexpr int kPairs = kWarpTokens / 16;          // of 8 tokens each: what one ldmatrix brings
constexpr int kSteps = (kHeadDim + 15) / 16;      // matrix instructions along head_dim
constexpr int kValueSteps = kValueDim / 16;
constexpr int kWarpSteps = (kValueSteps + kGroupWarps - 1) / kGroupWarps;  // of a warp, for the second product
constexpr int kCacheChunks = kHeadDim / 8;  // of a row in memory
constexpr int kRowChunks = 2 * kSteps;      // in shared memory, where zeros fill it up to whole steps
constexpr int kRowElements = 8 * kRowChunks;
constexpr int kRowBytes = 2 * kRowElements;
constexpr int kRowsAtOnce = kThreads / 8;   // that the block copies: eight threads a row
static_assert(sizeof(Cached) == 2, "a latent cache is stored as the queries are");
static_assert(kHeadDim % 8 == 0 && kValueDim % 16 == 0 && kValueDim <= kHeadDim, "whole copies, whole steps of values");
static_assert(kUnitRows % 16 == 0 && kWarps % kGroups == 0, "a group of warps has 16 rows");
static_assert(kTile % (16 * kGroupWarps) == 0 && kTile % kRowsAtOnce == 0, "warps and copies take whole tokens");
static_assert(kTile <= kThreads, "a thread looks up one token of a tile");
static_assert(kStages >= 2, "one tile arrives while another is attended to");

struct SharedMemory {
  u16 stages[kStages][kTile * kRowElements];
  u16 queries[kUnitRows * kRowElements];  // of the piece
  u16 weights[kGroups][16 * kTile];
  i64 rows[2][kTile];  // byte offsets of tokens; negative: no such token
  Work works[kWorks];
  Walk walk;           // one thread's
  float max[kWarps][16], sum[kWarps][16];
  u32 last;
};
static_assert(sizeof(SharedMemory) == PAB_SHARED_BYTES, "the launch plan computes the same size");

}  // namespace pab

#include "pab/decode_merge.cuh"

namespace pab {

// What a warp keeps of the piece that it attends to: its columns of two rows a lane, lane / 4 and 8 below.
struct State : ListedRows {
  float out[2 * kWarpSteps][4];
  float max[2], sum[2];  // the sum is this lane's share, of this warp's tokens
  LogitRow row[2];
};

PAB_FN int warp_group() { return static_cast<int>(threadIdx.x) / 32 / kGroupWarps; }
PAB_FN int warp_in_group() { return static_cast<int>(threadIdx.x) / 32 % kGroupWarps; }
PAB_FN void group_sync() { bar_sync(1 + static_cast<u32>(warp_group()), 32 * kGroupWarps); }

// Packed row, of the unit, of the lane's row `half`.
PAB_FN i32 unit_row(int half) { return 16 * warp_group() + static_cast<i32>(lane_id()) / 4 + 8 * half; }

// Rows of the unit that have a query.
PAB_FN i32 live_rows(const Batch& batch, const Work& work) {
  const i32 left = work.query_len * batch.group_size - work.first_row;
  return left < kUnitRows ? left : kUnitRows;
}

// Starts the copies of kRows rows: place(row) is where the bytes of one begin behind `source`, negative for a row of
// zeros, since a weight of zero does not silence a NaN.  Eight threads take a row, each every eighth chunk.
template <int kRows, typename Place>
PAB_FN void copy_rows(u16* target, const void* source, const Place& place) {
  constexpr int kTurns = (kRows + kRowsAtOnce - 1) / kRowsAtOnce;
  // opaque, here and below: kept from tile to tile, the places that follow from it take more registers than there are
  const int thread = static_cast<int>(opaque(threadIdx.x)), first = thread / 8, begin = thread % 8;
  const auto* from = static_cast<const unsigned char*>(source) + kChunkBytes * begin;
  auto* to = reinterpret_cast<unsigned char*>(target);
  i64 places[kTurns];  // all before the first copy
#pragma unroll
  for (int i = 0; i < kTurns; ++i) {
    const int row = first + i * kRowsAtOnce;
    places[i] = kRows % kRowsAtOnce == 0 || row < kRows ? place(row) : kNoToken;
  }
#pragma unroll
  for (int i = 0; i < kTurns; ++i) {
    const int row = first + i * kRowsAtOnce;
    if (kRows % kRowsAtOnce != 0 && row >= kRows) break;
#pragma unroll
    for (int j = 0; j < (kRowChunks + 7) / 8; ++j) {
      const int chunk = begin + 8 * j;
      if (kRowChunks % 8 != 0 && chunk >= kRowChunks) break;
      // of whole eights of chunks the swizzle moves each within its eight: all places follow from one by constants
      const int beside = i * kRowsAtOnce * kRowBytes + 8 * j * kChunkBytes;
      const int at = kRowChunks % 8 == 0 ? chunk_offset<kRowChunks>(first, begin) + beside
                                         : chunk_offset<kRowChunks>(row, chunk);
      const i32 behind = kCacheChunks == kRowChunks || chunk < kCacheChunks ? 0 : -1;
      const i32 there = static_cast<i32>(places[i] >> 32) | behind;
      cp_async16_there(to + at, from + places[i] + 8 * j * kChunkBytes, there);
    }
  }
}

// Starts the copies of tile `n` of the share.
PAB_FN void fetch(SharedMemory& memory, const Call& call, u32 n) {
  if (memory.works[n % kWorks].tile < 0) return;
  const i64* rows = memory.rows[n % 2];
  copy_rows<kTile>(memory.stages[n % kStages], call.k, [&](int row) { return rows[row]; });
}

// Brings the queries of a piece, which all are done with the piece before, and clears the state.
PAB_FN void begin_piece(SharedMemory& memory, State& state, const Call& call, const Batch& batch, const Work& work) {
  const i32 rows = live_rows(batch, work);
  copy_rows<kUnitRows>(memory.queries, call.q, [&](int row) -> i64 {
    if (row >= rows) return kNoToken;
    return query_row(call, batch, work, work.first_row + row) * kHeadDim * static_cast<i64>(sizeof(Stored));
  });
#pragma unroll
  for (int i = 0; i < 2 * kWarpSteps; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) state.out[i][j] = 0.0f;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    state.max[half] = minus_infinity();
    state.sum[half] = 0.0f;
    const i32 row = work.first_row + unit_row(half);
    const i32 position = row_position(batch, work, row);
    note_listed_row(state, half, batch, work, row);
    // a row that is not there may see keys, or stand before them all: nobody looks at what comes of it
    const int head = query_head(batch, work, row);
    state.row[half] = logit_row(batch.features, head, position, row_limit(call, batch, work, row), call.scale_log2);
  }
  cp_async_commit();
  cp_async_wait<0>();
  block_sync();
}

// The products of the group's queries and the warp's tokens.
PAB_FN void multiply_keys(float (&score)[2 * kPairs][4], const u16* queries, const u16* tokens, int lane) {
  const auto* rows = reinterpret_cast<const unsigned char*>(queries);
  const auto* keys = reinterpret_cast<const unsigned char*>(tokens);
  const int first_query = chunk_offset<kRowChunks>(lane % 16, lane / 16);
  const int first_key = chunk_offset<kRowChunks>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    u32 query[4];
    ldmatrix_x4(query, rows + step_offset<kRowChunks>(first_query, step));
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      u32 key[4];
      ldmatrix_x4(key, keys + pair * 16 * kRowBytes + step_offset<kRowChunks>(first_key, step));
      mma_16816(score[2 * pair], query, key[0], key[1]);
      mma_16816(score[2 * pair + 1], query, key[2], key[3]);
    }
  }
}

// Adds the products of the group's weights and the warp's columns of all tokens to the output.
PAB_FN void multiply_values(State& state, const u16* weights, const u16* tile, int lane) {
  const int first = kWarpSteps * warp_in_group();
  const auto* values = reinterpret_cast<const unsigned char*>(tile);
  const int place = chunk_offset<kRowChunks>(lane % 16, 2 * first + lane / 16);
#pragma unroll
  for (int slice = 0; slice < kTile / 16; ++slice) {
    u32 weight[4];
    const int at = chunk_offset<kTile / 8>(lane % 16, 2 * slice + lane / 16);
    ldmatrix_x4(weight, reinterpret_cast<const unsigned char*>(weights) + at);
#pragma unroll
    for (int i = 0; i < kWarpSteps; ++i) {
      if (kValueSteps % kGroupWarps != 0 && first + i >= kValueSteps) break;
      u32 value[4];
      // whole turns of the swizzle lie between the columns of two warps, or each step is asked for by itself
      const int step = 2 * kWarpSteps % kBankGroups == 0
                           ? step_offset<kRowChunks>(place, i)
                           : chunk_offset<kRowChunks>(lane % 16, 2 * (first + i) + lane / 16);
      ldmatrix_x4_trans(value, values + slice * 16 * kRowBytes + step);
      mma_16816(state.out[2 * i], weight, value[0], value[1]);
      mma_16816(state.out[2 * i + 1], weight, value[2], value[3]);
    }
  }
}

// Attends to a tile, whose first token is `first` of the sequence, or on its list; all warps of the group together.
PAB_FN void attend(SharedMemory& memory, State& state, const u16* tile, const Batch& batch, const Work& work,
                   float scale_log2, u32 first) {
  const int lane = static_cast<int>(opaque(lane_id())), warp = static_cast<int>(threadIdx.x) / 32;
  const int group = warp_group(), token = kWarpTokens * warp_in_group();
  float score[2 * kPairs][4] = {};
  multiply_keys(score, memory.queries + group * 16 * kRowElements, tile + token * kRowElements, lane);

  float top[2] = {minus_infinity(), minus_infinity()};
#pragma unroll
  for (int i = 0; i < 2 * kPairs; ++i) {
    const Shown shown = shown_places(batch, work, state, first + static_cast<u32>(token + i / 2 * 16));
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const u32 key = first + static_cast<u32>(token + 8 * i + 2 * (lane % 4) + j % 2);
      score[i][j] = shown_logit(batch.features, state.row[j / 2], score[i][j], key, scale_log2, shown, i % 2, j);
      top[j / 2] = fmaxf(top[j / 2], score[i][j]);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    top[half] = quad_max(top[half]);
    if (lane % 4 == 0) memory.max[warp][lane / 4 + 8 * half] = top[half];
  }
  group_sync();
  float base[2], rescale[2];
  bool moved = false;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    top[half] = state.max[half];
#pragma unroll
    for (int w = 0; w < kGroupWarps; ++w) {
      top[half] = fmaxf(top[half], memory.max[group * kGroupWarps + w][lane / 4 + 8 * half]);
    }
    moved |= top[half] != state.max[half];
    base[half] = top[half] == minus_infinity() ? 0.0f : top[half];  // -inf - -inf would be NaN
    rescale[half] = ex2(state.max[half] - base[half]);
    state.max[half] = top[half];
  }
  if (any(kFullMask, moved)) {
#pragma unroll
    for (int half = 0; half < 2; ++half) state.sum[half] *= rescale[half];
#pragma unroll
    for (int i = 0; i < 2 * kWarpSteps; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) state.out[i][j] *= rescale[j / 2];
    }
  }
  auto* weights = reinterpret_cast<unsigned char*>(memory.weights[group]);
#pragma unroll
  for (int i = 0; i < 2 * kPairs; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float low = ex2(score[i][2 * half] - base[half]), high = ex2(score[i][2 * half + 1] - base[half]);
      state.sum[half] += low + high;
      const int at = chunk_offset<kTile / 8>(lane / 4 + 8 * half, token / 8 + i) + 4 * (lane % 4);
      *reinterpret_cast<u32*>(weights + at) = pack_pair(low, high);
    }
  }
  group_sync();
  multiply_values(state, memory.weights[group], tile, lane);
}

// Writes the result of the group's rows, or a partial one: each warp has its columns, and the sum of its tokens.
PAB_FN void end_rows(SharedMemory& memory, const State& state, const Call& call, const Batch& batch, const Work& work) {
  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(threadIdx.x) / 32;
  const int first = kWarpSteps * warp_in_group();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = quad_sum(state.sum[half]);
    if (lane % 4 == 0) memory.sum[warp][lane / 4 + 8 * half] = sum;
  }
  group_sync();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const i32 row = unit_row(half);
    if (row >= live_rows(batch, work)) continue;
    float sum = 0.0f;
    for (int w = 0; w < kGroupWarps; ++w) sum += memory.sum[warp_group() * kGroupWarps + w][lane / 4 + 8 * half];
    const bool whole = work.pieces == 1, writes = lane % 4 == 0 && warp_in_group() == 0;
    const i64 slot = whole ? 0 : partial_slot(work, work.piece, batch.split_tiles) * kUnitRows + row;
    const i64 target = query_row(call, batch, work, work.first_row + row);
    const RowEnd end = row_end(call, batch, work, work.first_row + row, state.max[half], sum);
    if (writes && whole) call.lse[target] = end.lse;
    if (writes && !whole) {
      call.partial_max[slot] = state.max[half];
      call.partial_sum[slot] = sum;
    }
#pragma unroll
    for (int i = 0; i < 2 * kWarpSteps; ++i) {
      if (kValueSteps % kGroupWarps != 0 && first + i / 2 >= kValueSteps) break;
      const float low = state.out[i][2 * half], high = state.out[i][2 * half + 1];
      const int column = 16 * first + 8 * i + 2 * (lane % 4);
      if (whole) {
        *reinterpret_cast<u32*>(call.out + target * kValueDim + column) = pack_pair(low * end.scale, high * end.scale);
      } else {
        store_pack(call.partial_out + slot * kValueDim + column, Pack<float, 2>{{low, high}});
      }
    }
  }
}

}  // namespace pab

extern "C" __global__ void __launch_bounds__(PAB_PLAN_THREADS) paged_decode_latent_plan(
    const pab::i32* kv_lens, const pab::i32* qo_indptr, pab::i64* line, pab::i32* first, pab::u32* arrivals,
    pab::i32 num_seqs, pab::i32 num_kv_heads, pab::i32 group_size, pab::i32 split_tiles, pab::i32 shares,
    pab::i32 num_arrivals, pab::i32 max_query_len PAB_FEATURE_PARAMETERS PAB_KEY_LIST_PARAMETERS) {
  using namespace pab;
  grid_release();  // what attends waits for the end of this all the same
  PAB_SHARED(shared);
  const Features features = PAB_GIVEN_FEATURES(num_kv_heads * group_size);
  const Batch batch = {kv_lens,     qo_indptr,     num_kv_heads, group_size, kTile,
                       split_tiles, max_query_len, features PAB_GIVEN_KEY_LISTS};
  plan_line(batch, {line, first, arrivals, num_seqs, shares, num_arrivals}, reinterpret_cast<u64*>(shared));
}

extern "C" __global__ void __launch_bounds__(32 * PAB_WARPS, PAB_BLOCKS) paged_decode_latent(
    const pab::Stored* q, const pab::Cached* k, const pab::i32* block_table, const pab::i32* kv_lens,
    const pab::i32* qo_indptr, pab::Stored* out, float* lse, const pab::i64* line, const pab::i32* first,
    pab::u32* arrivals, float* partial_out, float* partial_max, float* partial_sum, pab::i32 num_seqs,
    pab::i32 num_qo_heads, pab::i32 num_kv_heads, pab::i32 page_size, pab::i32 max_pages, pab::i32 split_tiles,
    pab::i32 max_query_len, pab::i32 causal, pab::i64 page_stride, pab::i64 token_stride, pab::i64 head_stride,
    float scale_log2 PAB_FEATURE_PARAMETERS PAB_KEY_LIST_PARAMETERS) {
  using namespace pab;
  grid_wait();
  PAB_SHARED(shared);
  SharedMemory& memory = *reinterpret_cast<SharedMemory*>(shared);
  const Call call = {q,           k,           k,           block_table,  out,       lse,
                     arrivals,    partial_out, partial_max, partial_sum,  num_qo_heads, page_size,
                     max_pages,   causal,      page_stride, token_stride, head_stride, scale_log2};
  const Features features = PAB_GIVEN_FEATURES(num_qo_heads);
  const i32 group_size = num_qo_heads / num_kv_heads;
  const Batch batch = {kv_lens,     qo_indptr,     num_kv_heads, group_size, kTile,
                       split_tiles, max_query_len, features PAB_GIVEN_KEY_LISTS};
  State state;
  const auto start = [&](u32 n) { fetch(memory, call, n); };
  walk_tiles(memory, call, batch, line, first, num_seqs, start, [&](const Work& work, u32 n) {
    if (work.begins) begin_piece(memory, state, call, batch, work);
    const i32 rows = live_rows(batch, work);
    const bool live = 16 * warp_group() < rows;  // else no row of the group has a query
    const u32 token = static_cast<u32>(work.tile) * kTile;
    if (live && token < static_cast<u32>(work.kv_len)) {
      attend(memory, state, memory.stages[n % kStages], batch, work, scale_log2, token);
    }
    if (work.ends) {
      PAB_REGION("piece");
      if (live) end_rows(memory, state, call, batch, work);
      if (work.pieces > 1) meet_pieces(memory, call, batch, work, rows);
      PAB_REGION("tiles");
    }
  });
}
