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
// Compile  PAB_HEAD_DIM a multiple of 16; PAB_DTYPE 1 or 2; PAB_WARPS warps of a block, 16 rows each; PAB_TILE keys
//          of a tile, a multiple of 16; PAB_STAGES tiles in shared memory, at least 2; PAB_BLOCKS blocks of a
//          multiprocessor; PAB_PLAN_THREADS; PAB_SHARED_BYTES of paged_prefill, checked; PAB_FEATURES and
//          PAB_E4M3 0 or 1, see pab/features.cuh and pab/storage.cuh.
// Floor    4 * head_dim flops for each query head, row and key that the row sees.  K and V are read once for each
//          block of rows and KV head, from the first key that its first row sees to the last of its last row; meant to
//          come from L2.
//
// A block has kRows packed rows of one sequence and KV head, 16 a warp, and goes over its keys tile by tile.  Tiles
// come through a ring of kStages stages in shared memory; one barrier a tile.  Each row is summed in one place and in
// the order of its keys, in tiles that begin at multiples of kTile: its bits depend on its query, its keys and kTile,
// and on nothing else that is in the batch, in the block or in other chunks.
#include "pab/fragment_logits.cuh"
#include "pab/prefill_order.cuh"
#include "pab/query_tile.cuh"

namespace pab {

constexpr int kHeadDim = PAB_HEAD_DIM;
constexpr int kWarps = PAB_WARPS;
constexpr int kTile = PAB_TILE;
constexpr int kStages = PAB_STAGES;
constexpr int kThreads = 32 * kWarps;
constexpr int kWarpRows = 16;
constexpr int kRows = kWarpRows * kWarps;
constexpr int kChunks = kHeadDim / 8;  // of a row of q and out
constexpr bool kE4m3 = sizeof(Cached) == 1;
constexpr int kGroupRows = kTile;
constexpr int kCopiesAtOnce = kTile;  // all
constexpr int kSteps = kHeadDim / 16;  // matrix instructions along head_dim
constexpr int kPairs = kTile / 16;     // of 8 keys each: what one ldmatrix brings
// the query stays in registers while the output, and what e4m3 is widened in, leave room for it
constexpr bool kQueryInRegisters = kHeadDim <= (kE4m3 ? 96 : 128);
// unrolled, a loop keeps an address for each step; else there are no registers left for that, least with a step over
constexpr int kUnrolledSteps = kQueryInRegisters ? kSteps : kSteps % 2 ? 2 : 4;
static_assert(kHeadDim % 16 == 0 && kTile % 16 == 0, "matrix instructions take 16 elements at a time");
static_assert(kStages >= 2, "one tile arrives while another is attended to");
static_assert(kTile <= kThreads, "a thread looks up one token of a tile");
static_assert(PAB_PLAN_THREADS >= kBuckets, "the plan sums the buckets at once");

constexpr float kLn2 = 0.693147180559945309f;

struct Stage {
  Cached keys[kTile * kHeadDim], values[kTile * kHeadDim];
};

struct SharedMemory {
  u16 queries[kRows * kHeadDim];  // at the end the output, each warp's rows where its queries were
  Stage stages[kStages];
  i64 rows[2][kTile];  // byte offsets of tokens; negative: no such token
};
static_assert(sizeof(SharedMemory) == PAB_SHARED_BYTES, "the launch plan computes the same size");

// The kernel's arguments.
struct Call {
  const Stored* q;
  const Cached *k, *v;
  const i32* block_table;
  Stored* out;
  float* lse;
  i32 num_qo_heads, page_size, max_pages;
  i64 page_stride, token_stride, head_stride;
  float scale_log2;
};

}  // namespace pab

#include "pab/tile_copy.cuh"

namespace pab {

// What a block attends to: rows first_row .. last_row of a sequence with one KV head, and their keys.
struct Work {
  Sequence sequence;
  i32 number, kv_head, first_row, last_row;
  i32 begin, end;  // keys that some row sees
};

// What a lane keeps of its two rows: lane / 4 of its warp's, and 8 below.
struct State {
  float out[2 * kSteps][4];
  float max[2], sum[2];  // the sum is this lane's share
  LogitRow row[2];
  u32 query[kQueryInRegisters ? kSteps : 1][4];
};

// Query head of packed row `row`, and the row of q and out that it is.
PAB_FN i32 query_head(const Work& work, i32 row) {
  return work.kv_head * work.sequence.group_size + row % work.sequence.group_size;
}
PAB_FN i64 query_row(const Call& call, const Work& work, i32 row) {
  const i32 token = row / work.sequence.group_size;
  return static_cast<i64>(work.sequence.first_query + token) * call.num_qo_heads + query_head(work, row);
}

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

// The products of a warp's queries and the keys of a tile.
PAB_FN void multiply_keys(float (&score)[2 * kPairs][4], const State& state, const u16* queries, const Cached* tokens,
                          int lane) {
  const auto* keys = reinterpret_cast<const unsigned char*>(tokens);
  // a chunk of e4m3 is a whole step, so that ldmatrix brings two; of an odd number the last one comes twice
  constexpr int kAtOnce = kE4m3 ? 2 : 1;
#pragma unroll kUnrolledSteps
  for (int step = 0; step < kSteps; step += kAtOnce) {
    u32 a[kAtOnce][4];
#pragma unroll
    for (int more = 0; more < kAtOnce; ++more) {
      if (step + more >= kSteps) break;
      if constexpr (kQueryInRegisters) {
#pragma unroll
        for (int i = 0; i < 4; ++i) a[more][i] = state.query[step + more][i];
      } else {
        load_query<kSteps>(a[more], queries, step + more);
      }
    }
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      u32 key[4];
      const int row = 16 * pair + lane / 16 * 8 + lane % 8, second = lane / 8 % 2;
      if constexpr (kE4m3) {
        const int chunk = step + 1 < kSteps ? step + second : step;
        ldmatrix_x4(key, keys + chunk_offset<kCacheChunks>(row, chunk));
#pragma unroll
        for (int more = 0; more < 2; ++more) {
          if (step + more >= kSteps) break;
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            u32 b0, b1;
            keys_of_e4m3(b0, b1, key[2 * i + more]);
            mma_16816(score[2 * pair + i], a[more], b0, b1);
          }
        }
      } else {
        const int place = chunk_offset<kCacheChunks>(lane / 16 * 8 + lane % 8, second);
        ldmatrix_x4(key, keys + 16 * pair * kCacheChunks * kChunkBytes + step_offset<kCacheChunks>(place, step));
        mma_16816(score[2 * pair], a[0], key[0], key[1]);
        mma_16816(score[2 * pair + 1], a[0], key[2], key[3]);
      }
    }
  }
}

// Adds the products of the weights of 16 tokens and their values, the first in row `first` of the tile, to the output.
PAB_FN void multiply_values(State& state, const u32 (&weight)[4], const Cached* tokens, int first, int lane) {
  const int row = first + lane % 16;
  const auto* values = reinterpret_cast<const unsigned char*>(tokens);
  u32 value[4];
  if constexpr (kE4m3) {
#pragma unroll
    for (int step = 0; step < kSteps; step += 2) {
      const int chunk = step + 1 < kSteps ? step + lane / 16 : step;
      ldmatrix_x4_trans(value, values + chunk_offset<kCacheChunks>(row, chunk));
#pragma unroll
      for (int more = 0; more < 2; ++more) {
        if (step + more >= kSteps) break;
        u32 even[2], odd[2];
        values_of_e4m3(even[0], odd[0], value[2 * more]);
        values_of_e4m3(even[1], odd[1], value[2 * more + 1]);
        mma_16816(state.out[2 * (step + more)], weight, even[0], even[1]);
        mma_16816(state.out[2 * (step + more) + 1], weight, odd[0], odd[1]);
      }
    }
  } else {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int place = chunk_offset<kCacheChunks>(lane % 16, lane / 16);
      const auto* rows = values + first * kCacheChunks * kChunkBytes;
      ldmatrix_x4_trans(value, rows + step_offset<kCacheChunks>(place, step));
      mma_16816(state.out[2 * step], weight, value[0], value[1]);
      mma_16816(state.out[2 * step + 1], weight, value[2], value[3]);
    }
  }
}

// Attends to a tile whose first key is `first`; `masked` when some row of the warp does not see all of it.
PAB_FN void attend(State& state, const Stage& stage, const u16* queries, const Features& features, float scale_log2,
                   u32 first, bool masked) {
  // else the places of all chunks would be kept from tile to tile, more than there are registers for
  const int lane = static_cast<int>(opaque(lane_id()));
  float score[2 * kPairs][4] = {};
  multiply_keys(score, state, queries, stage.keys, lane);

#pragma unroll
  for (int i = 0; i < 2 * kPairs; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const u32 token = first + 8 * i + 2 * (lane % 4) + j % 2;
      score[i][j] = seen_logit(features, state.row[j / 2], score[i][j], token, scale_log2);
    }
  }
  if (masked) {
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
    u32 weight[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      weight[i] = pack_pair(score[2 * pair + i / 2][2 * (i % 2)], score[2 * pair + i / 2][2 * (i % 2) + 1]);
    }
    multiply_values(state, weight, stage.values, 16 * pair, lane);
  }
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
  const RowBlock block = load_wide(&order[number]);
  Work work = {sequence_of(batch, block.sequence), block.sequence, static_cast<i32>(blockIdx.x) % num_kv_heads,
               block.first_row, block.first_row + kRows - 1, 0, 0};
  if (work.last_row >= work.sequence.rows()) work.last_row = work.sequence.rows() - 1;
  work.begin = work.sequence.oldest(work.first_row);
  work.end = work.sequence.limit(work.last_row);
  const i32 first_tile = work.begin / kTile, tiles = work.end / kTile + (work.end % kTile != 0) - first_tile;

  const i32 warp = static_cast<i32>(threadIdx.x / kWarpSize), first_row = work.first_row + kWarpRows * warp;
  const i32 last_row = first_row + kWarpRows - 1 < work.last_row ? first_row + kWarpRows - 1 : work.last_row;
  const bool idle = first_row > work.last_row;
  // keys that some row of the warp sees, and those that all of them do
  const u32 some_begin = static_cast<u32>(work.sequence.oldest(first_row));
  const u32 some_end = idle ? 0 : static_cast<u32>(work.sequence.limit(last_row));
  const u32 all_begin = static_cast<u32>(work.sequence.oldest(last_row));
  const u32 all_end = static_cast<u32>(work.sequence.limit(first_row));
  u16* queries = memory.queries + kWarpRows * kHeadDim * warp;
  State state = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const i32 row = first_row + static_cast<i32>(lane_id()) / 4 + 8 * half, head = query_head(work, row);
    const i32 position = work.sequence.position(row);
    state.row[half] = logit_row(features, head, position, static_cast<u32>(work.sequence.limit(row)), scale_log2);
    // a sink is one more key, without a value
    state.max[half] = sink_log2(features, head);
    state.sum[half] = lane_id() % 4 == 0 && state.max[half] > minus_infinity() ? 1.0f : 0.0f;
  }

  // Tokens of tile n are looked up kStages tiles ahead and fetched kStages - 1 ahead, each step a barrier after the
  // one before.  A group of copies is committed a tile, also when there is nothing left to fetch.
  const auto fetch = [&](i32 n) {
    if (n < tiles) copy_tile(memory.rows[n % 2], call, [&](int) -> Stage& { return memory.stages[n % kStages]; });
    cp_async_commit();
  };
  const auto look_up = [&](i32 n) { return token_page(call, work, first_tile + n); };
  const auto note = [&](i32 n, i32 page) {
    const u32 token = static_cast<u32>(first_tile + n) * kTile + threadIdx.x;
    note_token(memory.rows[n % 2], call, work.kv_head, token, page);
  };
  if (tiles > 0) {
    fetch_queries(memory.queries, call, work);
    note(0, look_up(0));
    block_sync();
  }
  for (i32 n = 0; n < kStages - 1 && tiles > 0; ++n) {
    fetch(n);
    note(n + 1, look_up(n + 1));
    block_sync();
  }
  for (i32 n = 0; n < tiles; ++n) {
    cp_async_wait<kStages - 2>();
    block_sync();
    fetch(n + kStages - 1);
    const i32 page = look_up(n + kStages);
    if constexpr (kQueryInRegisters) {
      if (n == 0) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) load_query<kSteps>(state.query[step], queries, step);
      }
    }
    const u32 first = static_cast<u32>(first_tile + n) * kTile, end = first + kTile;
    if (first < some_end && end > some_begin) {
      const bool masked = first < all_begin || end > all_end;
      attend(state, memory.stages[n % kStages], queries, features, scale_log2, first, masked);
    }
    note(n + kStages, page);  // behind the products: the table entry has had time to arrive
  }
  if (!idle) write_rows(state, queries, call, work, first_row);
}
