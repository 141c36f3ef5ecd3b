// SPDX-License-Identifier: Apache-2.0
// Paged decode attention on tensor cores: a persistent grid that reads each key and value once per KV head.
//
//   paged_decode_plan   grid 1; block PAB_PLAN_THREADS (a multiple of 32); shared: kScanWords u64
//   paged_decode        grid shares * num_kv_heads, best of as many blocks as stay resident (SMs x blocks an SM)
//                       block 32 * PAB_WARPS; shared: sizeof(SharedMemory)
//
// Layout   q, out (num_query_tokens, num_qo_heads, head_dim), rows qo_indptr[s]..qo_indptr[s+1] of sequence s; lse
//          (num_query_tokens, num_qo_heads) float, natural log; k, v any layout with contiguous head_dim, given by
//          three element strides (page, token, head); block_table (num_seqs, max_pages); all but the last two aligned
//          to 16 bytes, strides multiples of 8.  With PAB_TILE_ROWS k and v are rows of bytes, the numbers and at the next
//          multiple of 4 bytes their scales; they and their strides are multiples of 4.
//          Sequences with more than max_query_len query tokens are left alone: nothing of theirs is read or written.
//          Workspace: line (num_seqs + 1) i64, first (shares) i32, arrivals u32, partial_out (slot, 16, head_dim),
//          partial_max and partial_sum (slot, 16).  The plan writes the first three; a launch leaves arrivals 0, so
//          that one plan serves all layers of a model.
// Compile  PAB_HEAD_DIM a multiple of 16; PAB_DTYPE 1 or 2; PAB_WARPS warps of a block; PAB_STAGES tiles in shared
//          memory, at least 2; PAB_BLOCKS blocks of a multiprocessor; PAB_PLAN_THREADS; PAB_SHARED_BYTES of paged_decode,
//          checked; PAB_FEATURES, PAB_E4M3 and PAB_KEY_LISTS 0 or 1, see pab/features.cuh, pab/storage.cuh and
//          pab/key_list.cuh; PAB_TILE_ROWS, see pab/storage.cuh, with PAB_FEATURES 1.
// Floor    each live K and V element once: 2 * sum(kv_lens) * num_kv_heads * head_dim * 2 bytes, times the blocks of
//          16 rows when query_len * group_size is above 16; 16 * that many flops for each row.
//          Of a window, and with PAB_KEY_LISTS, only the keys that some row of the sequence sees are read.
//
// Keys of e4m3 are multiplied as float16, also by queries of bfloat16 (pab/query_halves.cuh); values in the storage type,
// since weights reach further down than float16 does, but for rows with scales of tokens (pab/fragments_rows.cuh).
//
// A tile is 16 tokens a warp.  Each warp attends to its own 16 with its own running maximum, sum and output, so that
// one barrier a tile is all; the warps meet at the end of a piece.  Tiles come through a ring of kStages stages in
// shared memory: while one is attended to, the next ones are on their way, also those of other sequences.
#include "pab/decode_plan.cuh"
#include "pab/listed_logits.cuh"
#include "pab/query_halves.cuh"
#include "pab/query_tile.cuh"

namespace pab {

constexpr int kHeadDim = PAB_HEAD_DIM;
constexpr int kValueDim = kHeadDim;
constexpr int kWarps = PAB_WARPS;
constexpr int kStages = PAB_STAGES;
constexpr int kThreads = 32 * kWarps;
constexpr int kSlice = 16;  // tokens of a warp
constexpr int kTile = kSlice * kWarps;
constexpr int kWorks = kStages + 2 + kKeyLists;  // tiles between look-up and end
constexpr bool kE4m3 = PAB_E4M3 || kTileRows == kE4m3Rows;
// of 4 bits a chunk is 32 elements: the last one may be half zeros
constexpr int kTileDim = kNumberBits == 4 ? (kHeadDim + 31) / 32 * 32 : kHeadDim;
constexpr int kChunks = kTileDim / 8;  // of a row of q in shared memory
constexpr int kSteps = kTileDim / 16;  // matrix instructions along head_dim
// the output takes the place of tokens, of half or a quarter as many bytes it takes two or four passes, or more
constexpr int kFewSteps = kNumberBits == 8 ? (kSteps + 1) / 2 : kSteps < 8 ? 2 : kSteps / 8 * 2;
constexpr int kPassSteps = kNumberBits == 16 ? kSteps : kFewSteps;
constexpr int kPasses = (kSteps + kPassSteps - 1) / kPassSteps;
// the query stays in registers while the output leaves room for it
constexpr bool kQueryInRegisters = kHeadDim <= 128;
// whether keys of e4m3 are multiplied as float16 by a query that was bfloat16
constexpr bool kQueryAsHalves = kE4m3 && PAB_DTYPE == 2 && kQueryInRegisters;
constexpr int kGroupRows = kSlice;
constexpr int kCopiesAtOnce = 8;  // more offsets than that leave no registers to the output of a head_dim above 128
static_assert(kHeadDim % 16 == 0, "matrix instructions take 16 elements at a time");
static_assert(kStages >= 2, "one tile arrives while another is attended to");

}  // namespace pab

#if PAB_TILE_ROWS
#include "pab/row_tiles.cuh"
#endif

namespace pab {

#if !PAB_TILE_ROWS
// A warp's tokens of a stage.
struct Tokens {
  Cached keys[kSlice * kHeadDim], values[kSlice * kHeadDim];
};
#endif

// One warp's tokens of a stage; at the end of a piece, a pass of the warp's output takes their place.
union Slice {
  Tokens tokens;
  float out[kUnitRows * 16 * kPassSteps];
};
static_assert(kNumberBits < 16 || sizeof(Slice) == sizeof(Slice::tokens), "the output fits what it replaces");

struct SharedMemory {
  Slice stages[kStages][kWarps];
  u16 queries[kStages][kUnitRows * kTileDim];  // of the pieces under way
  i64 rows[2][kTile];                          // byte offsets of tokens; negative: no such token
  Work works[kWorks];
  Walk walk;                                   // one thread's
  float max[kWarps][kUnitRows], sum[kWarps][kUnitRows];
  u32 last;
};

static_assert(sizeof(SharedMemory) == PAB_SHARED_BYTES, "the launch plan computes the same size");

}  // namespace pab

#include "pab/decode_tiles.cuh"
#if PAB_TILE_ROWS
#include "pab/row_copy.cuh"
#else
#include "pab/tile_copy.cuh"
#endif

namespace pab {

// What a warp keeps of the piece that it attends to: two rows a lane, lane / 4 and 8 below.
struct State : ListedRows {
  float out[2 * kSteps][4];
  float max[2], sum[2];  // the sum is this lane's share
  LogitRow row[2];
  u32 query[kQueryInRegisters ? kSteps : 1][4];
  bool halves;  // what `query` is, where it can be
};

// Starts the copies of tile `n` of the share, and of the query where a piece begins.
PAB_FN void fetch(SharedMemory& memory, const Call& call, const Batch& batch, u32 n) {
  const Work& work = memory.works[n % kWorks];
  if (work.tile < 0) return;
  Slice* slices = memory.stages[n % kStages];
  copy_tile(memory.rows[n % 2], call, [&](int row) -> auto& { return slices[row / kSlice].tokens; });
  if (!work.begins) return;
  u16* query = memory.queries[static_cast<u32>(work.number) % kStages];
  for (int index = static_cast<int>(threadIdx.x); index < kUnitRows * kChunks; index += kThreads) {
    const int row = index / kChunks, chunk = index % kChunks;
    const bool live = work.first_row + row < work.query_len * batch.group_size && 8 * chunk < kHeadDim;
    const i64 source = live ? query_row(call, batch, work, work.first_row + row) * kHeadDim + 8 * chunk : 0;
    const int target = query_offset<kSteps>(row, chunk) / static_cast<int>(sizeof(u16));
    cp_async16(query + target, call.q + source, live);
  }
}

PAB_FN void begin_piece(State& state, const u16* query, const Call& call, const Batch& batch, const Work& work) {
#pragma unroll
  for (int i = 0; i < 2 * kSteps; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) state.out[i][j] = 0.0f;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    state.max[half] = minus_infinity();
    state.sum[half] = 0.0f;
    const i32 row = work.first_row + static_cast<i32>(lane_id()) / 4 + 8 * half;
    const i32 position = row_position(batch, work, row);
    const u32 limit = row_limit(call, batch, work, row);
    note_listed_row(state, half, batch, work, row);
    state.row[half] = logit_row(batch.features, query_head(batch, work, row), position, limit, call.scale_log2);
    scale_products(state.row[half], kKeyFactor);
  }
  if constexpr (kQueryInRegisters) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      load_query<kSteps>(state.query[step], query, step);
      if constexpr (kTileRows != kNoRows && !kQueryAsHalves) settle_query(state.query[step]);
    }
  }
  state.halves = false;
  if constexpr (kQueryAsHalves) {
    float inverse[2];
    state.halves = query_as_halves(state.query, inverse);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (state.halves) scale_products(state.row[half], inverse[half]);
    }
  }
}

// Adds the products of the query and 2 x 8 keys at one step.
PAB_FN void multiply_step(float (&score)[2][4], const State& state, const u16* query, int step,
                          const u32 (&key)[4]) {
  if constexpr (kQueryInRegisters && !kQueryAsHalves) {
    mma_16816(score[0], state.query[step], key[0], key[1]);
    mma_16816(score[1], state.query[step], key[2], key[3]);
  } else {
    u32 a[4];
    load_query<kSteps>(a, query, step);
    mma_16816(score[0], a, key[0], key[1]);
    mma_16816(score[1], a, key[2], key[3]);
  }
}

}  // namespace pab

#include "pab/decode_products.cuh"

namespace pab {

// Attends to one warp's tokens; `first` is the first one's place in the sequence, or on its list.
PAB_FN void attend(State& state, const Slice& slice, const u16* query, const Features& features, float scale_log2,
                   u32 first, const Shown& shown) {
  const int lane = static_cast<int>(lane_id());
  float score[2][4] = {};
  multiply_keys(score, state, query, slice.tokens);

  float top[2] = {minus_infinity(), minus_infinity()};
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const u32 token = first + 8 * i + 2 * (lane % 4) + j % 2;
      score[i][j] = shown_logit(features, state.row[j / 2], score[i][j], token, scale_log2, shown, i, j);
      top[j / 2] = fmaxf(top[j / 2], score[i][j]);
    }
  }
  float base[2], rescale[2];
  bool moved = false;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    top[half] = fmaxf(state.max[half], quad_max(top[half]));
    moved |= top[half] != state.max[half];
    base[half] = top[half] == minus_infinity() ? 0.0f : top[half];  // -inf - -inf would be NaN
    rescale[half] = ex2(state.max[half] - base[half]);
    state.max[half] = top[half];
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
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      score[i][j] = ex2(score[i][j] - base[j / 2]);
      state.sum[j / 2] += score[i][j];
    }
  }

  multiply_values(state, weights_of(score, slice.tokens), slice.tokens);
}

}  // namespace pab

#include "pab/decode_join.cuh"

extern "C" __global__ void __launch_bounds__(PAB_PLAN_THREADS) paged_decode_plan(
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

extern "C" __global__ void __launch_bounds__(32 * PAB_WARPS, PAB_BLOCKS) paged_decode(
    const pab::Stored* q, const pab::Cached* k, const pab::Cached* v, const pab::i32* block_table,
    const pab::i32* kv_lens, const pab::i32* qo_indptr, pab::Stored* out, float* lse, const pab::i64* line,
    const pab::i32* first, pab::u32* arrivals, float* partial_out, float* partial_max, float* partial_sum,
    pab::i32 num_seqs, pab::i32 num_qo_heads, pab::i32 num_kv_heads, pab::i32 page_size, pab::i32 max_pages,
    pab::i32 split_tiles, pab::i32 max_query_len, pab::i32 causal, pab::i64 page_stride, pab::i64 token_stride,
    pab::i64 head_stride, float scale_log2 PAB_FEATURE_PARAMETERS PAB_KEY_LIST_PARAMETERS) {
  using namespace pab;
  grid_wait();
  PAB_SHARED(shared);
  SharedMemory& memory = *reinterpret_cast<SharedMemory*>(shared);
  const Call call = {q,           k,           v,           block_table,  out,       lse,
                     arrivals,    partial_out, partial_max, partial_sum,  num_qo_heads, page_size,
                     max_pages,   causal,      page_stride, token_stride, head_stride, scale_log2};
  const Features features = PAB_GIVEN_FEATURES(num_qo_heads);
  const i32 group_size = num_qo_heads / num_kv_heads;
  const Batch batch = {kv_lens,     qo_indptr,     num_kv_heads, group_size, kTile,
                       split_tiles, max_query_len, features PAB_GIVEN_KEY_LISTS};
  const u32 warp = threadIdx.x / kWarpSize;
  State state;
  const auto start = [&](u32 n) { fetch(memory, call, batch, n); };
  walk_tiles(memory, call, batch, line, first, num_seqs, start, [&](const Work& work, u32 n) {
    Slice* slices = memory.stages[n % kStages];
    const u16* query = memory.queries[static_cast<u32>(work.number) % kStages];
    if (work.begins) begin_piece(state, query, call, batch, work);
    const u32 token = static_cast<u32>(work.tile) * kTile + warp * kSlice;
    const u32 seen = static_cast<u32>(first_seen(batch, work.kv_len, work.query_len));
    if (token < static_cast<u32>(work.kv_len) && token + kSlice > seen) {
      const Shown shown = shown_places(batch, work, state, token);
      attend(state, slices[warp], query, features, scale_log2, token, shown);
    }
    if (work.ends) {
      PAB_REGION("piece");
      end_piece(memory, state, slices, call, batch, work);
      PAB_REGION("tiles");
    }
  });
}
