// SPDX-License-Identifier: Apache-2.0
// Paged attention of many query tokens a sequence (prompts, chunks of them) by products of warpgroups: sm_90a alone.
//
//   paged_prefill_wgmma_plan   grid 1; block PAB_PLAN_THREADS (a multiple of 32, at least kBuckets)
//                              shared: kScanWords u64 and kBuckets u32
//   paged_prefill_wgmma        grid num_kv_heads * (num_query_tokens * group_size / kRows + num_seqs), the most blocks
//                              that any lengths make; block 32 * PAB_WARPS; shared: sizeof(SharedMemory)
//
// Layout   as of paged_prefill.cu: arguments, alignment, workspace and what is left alone.  Besides, k and v as tensor maps
//          of head_dim, tokens of a page, KV heads and pages with boxes of 64 elements and box_tokens tokens, 16 to kTile,
//          which divide the page, and a swizzle of 128 bytes; box_tokens 0 where there are none.
// Compile  PAB_HEAD_DIM a multiple of 16; PAB_DTYPE 1 or 2; PAB_WARPS 12; PAB_TILE keys of a tile, 64 or 128; PAB_STAGES
//          tiles in shared memory, at least 2; PAB_BLOCKS 1, of a multiprocessor; PAB_PLAN_THREADS; PAB_SHARED_BYTES of
//          paged_prefill_wgmma, checked; PAB_FEATURES 0 or 1, see pab/features.cuh; PAB_E4M3 0.
// Floor    as of paged_prefill.cu, over what products of warpgroups do: 4,096 operations a clock and multiprocessor.
//
// Four warps feed, eight attend.  A block has kRows packed rows of one sequence and KV head, 64 a warpgroup that attends;
// both go over the same keys tile by tile.  Those that feed copy tiles into a ring of kStages stages, with few registers;
// those that attend take theirs.  Whole tiles come in boxes, page by page, where pages have 16 tokens or more; others, and
// smaller pages, by 16-byte copies.  Keys and values of a stage each have two mbarriers, of which one says that they are
// there and the other that both warpgroups are done with them.  While a warpgroup makes weights of a tile's scores, its
// products of the weights and values before run.  Each row is summed in one place and in the order of its keys, in
// tiles that begin at multiples of kTile: its bits depend on its query, its keys and kTile, and on nothing else.
#include "pab/fragment_logits.cuh"
#include "pab/prefill_work.cuh"
#include "pab/query_tile.cuh"
#include "pab/values_apart.cuh"
#include "pab/wgmma.cuh"

namespace pab {

constexpr int kHeadDim = PAB_HEAD_DIM;
constexpr int kTile = PAB_TILE;
constexpr int kStages = PAB_STAGES;
constexpr int kGroupWarps = 4, kGroupThreads = 32 * kGroupWarps;
constexpr int kGroups = PAB_WARPS / kGroupWarps - 1;  // that attend; the first warpgroup of a block feeds
constexpr int kGroupRows = 64;
constexpr int kRows = kGroupRows * kGroups;
constexpr int kChunks = kHeadDim / 8;  // of a row
constexpr bool kE4m3 = false;
constexpr int kSteps = kHeadDim / 16;  // products along head_dim
constexpr int kValueSteps = kSteps, kOutChunks = kChunks;  // values are as wide as keys
constexpr int kPairs = kTile / 16;     // products along the keys of a tile
constexpr int kPanels = (kHeadDim + kPanelElements - 1) / kPanelElements;
constexpr int kTilePanel = kTile * kPanelRowBytes, kQueryPanel = kGroupRows * kPanelRowBytes;  // bytes
// of a thread, in all the 168 that a multiprocessor has for each of 384
constexpr int kFeedRegisters = 40, kAttendRegisters = 232;
static_assert(kHeadDim % 16 == 0 && kHeadDim <= 256, "products take 16 elements at a time, and outputs have registers");
static_assert(kTile == 64 || kTile == 128, "products with keys have 64 or 128 columns");
static_assert(kStages >= 2, "one tile arrives while another is attended to");
static_assert(PAB_WARPS == 12, "the registers are those of three warpgroups");
static_assert(sizeof(Cached) == 2, "values are an operand as they are stored");
static_assert(PAB_PLAN_THREADS >= kBuckets, "the plan sums the buckets at once");

struct alignas(1024) SharedMemory {
  u16 queries[kGroups][kPanels * kQueryPanel / 2];  // at the end the output, each warp's rows in its part of them
  u16 keys[kStages][kPanels * kTilePanel / 2], values[kStages][kPanels * kTilePanel / 2];
  u64 keys_there[kStages], values_there[kStages];  // phases end when the feeding warps have arrived
  u64 keys_done[kStages], values_done[kStages];    // and these when the attending ones have
};
static_assert(sizeof(SharedMemory) == PAB_SHARED_BYTES, "the launch plan computes the same size");

// What a lane keeps of its two rows of 16: lane / 4, and 8 below.
struct State {
  float out[2 * kSteps][4];
  float max[2], sum[2];  // the sum is this lane's share
  LogitRow row[2];
};

// The phase of its stage's barriers that tile n waits for.
PAB_FN u32 phase_of(i32 n) { return static_cast<u32>(n / kStages) & 1u; }

}  // namespace pab

#include "pab/prefill_output.cuh"
#include "pab/wgmma_feed.cuh"

namespace pab {

// Brings the 64 rows of queries of a warpgroup that attends; rows past the last are zeros.
PAB_FN void fetch_queries(u16* queries, const Call& call, const Work& work, i32 first_row, u32 group) {
  auto* bytes = reinterpret_cast<unsigned char*>(queries);
  for (int index = static_cast<int>(threadIdx.x) % kGroupThreads; index < kGroupRows * kChunks; index += kGroupThreads) {
    const int row = index / kChunks, chunk = index % kChunks;
    const bool live = first_row + row <= work.last_row;
    const i64 source = live ? query_row(call, work, first_row + row) * kHeadDim + 8 * chunk : 0;
    cp_async16(bytes + panel_place<kGroupRows>(row, chunk), call.q + source, live);
  }
  cp_async_commit();
  cp_async_wait<0>();
  proxy_fence();
  bar_sync(group, kGroupThreads);
}

// Begins the products of a warpgroup's queries and the keys of a tile.
PAB_FN void multiply_keys(float (&score)[2 * kPairs][4], u64 queries, u64 keys) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const int panel = step / 4, within = step % 4 * 32;
    const u64 a = further(queries, panel * kQueryPanel + within), b = further(keys, panel * kTilePanel + within);
    product_keys<kTile>(&score[0][0], a, b, step > 0);
  }
  product_commit();
}

// Begins the products of weights with the values of a tile, from element kFirst of the head on.
template <int kFirst>
PAB_FN void multiply_columns(float (&out)[2 * kSteps][4], const u32 (&weights)[kPairs][4], u64 values) {
  if constexpr (kFirst < kHeadDim) {
    constexpr int kLeft = kHeadDim - kFirst, kColumns = kLeft >= 128 ? 128 : kLeft >= 64 ? 64 : kLeft;
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      const u64 b = further(values, kFirst / kPanelElements * kTilePanel + 16 * kPanelRowBytes * pair);
      product_values<kColumns>(&out[kFirst / 8][0], weights[pair], b);
    }
    multiply_columns<kFirst + kColumns>(out, weights, values);
  }
}

// Turns products with keys own, own + 1, own + 8 and so on into logits, -inf where a row does not see the key if kMasked.
// In one pass: distances between keys and rows, kept from one to another, are more than there are registers.
template <bool kMasked>
PAB_FN void shape_logits(float (&score)[2 * kPairs][4], const State& state, const Features& features, float scale_log2,
                         u32 own) {
#pragma unroll
  for (int i = 0; i < 2 * kPairs; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const u32 token = own + 8 * i + j % 2;
      const LogitRow& row = state.row[j / 2];
      score[i][j] = kMasked ? masked_logit(features, row, score[i][j], token, scale_log2)
                            : seen_logit(features, row, score[i][j], token, scale_log2);
    }
  }
}

// Turns the products of a tile of keys, the first of them `first`, into weights in float32: the state's maximum and sum
// go on to this tile's.  Returns whether some maximum of the warp moved; outputs are then to be multiplied by `rescale`.
PAB_FN bool weigh(float (&score)[2 * kPairs][4], State& state, float (&rescale)[2], const Features& features,
                  float scale_log2, u32 first, bool masked) {
  const u32 own = first + 2 * (lane_id() % 4);
  if (masked) {
    shape_logits<true>(score, state, features, scale_log2, own);
  } else {
    shape_logits<false>(score, state, features, scale_log2, own);
  }
  bool moved = false;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float top = minus_infinity();
#pragma unroll
    for (int i = 0; i < 2 * kPairs; ++i) top = fmaxf(top, fmaxf(score[i][2 * half], score[i][2 * half + 1]));
    top = fmaxf(state.max[half], quad_max(top));
    const bool higher = top != state.max[half];
    const float base = top == minus_infinity() ? 0.0f : top;  // -inf - -inf would be NaN
    // exactly 1, not an approximation of it, so that a row does not depend on the others of its warp
    rescale[half] = higher ? ex2(state.max[half] - base) : 1.0f;
    state.max[half] = top;
    moved |= higher;
    float sum = 0.0f;  // of this tile, so that chains of additions stay short
#pragma unroll
    for (int i = 0; i < 2 * kPairs; ++i) {
#pragma unroll
      for (int j = 2 * half; j < 2 * half + 2; ++j) {
        score[i][j] = ex2(score[i][j] - base);
        sum += score[i][j];
      }
    }
    state.sum[half] = state.sum[half] * rescale[half] + sum;
  }
  return any(kFullMask, moved);
}

// Weights as operand A: accumulators of the first product, rounded.
PAB_FN void pack_weights(u32 (&weights)[kPairs][4], const float (&score)[2 * kPairs][4]) {
#pragma unroll
  for (int pair = 0; pair < kPairs; ++pair) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float(&pairs)[4] = score[2 * pair + i / 2];
      weights[pair][i] = pack_pair(pairs[2 * (i % 2)], pairs[2 * (i % 2) + 1]);
    }
  }
}

// Says that this warp is done with what `barrier` stands for.
PAB_FN void done_with(u64* barrier) {
  if (lane_id() == 0) barrier_arrive(barrier);
}

// Attends to all tiles of the block with the 64 rows of a warpgroup.
PAB_FN void attend(State& state, SharedMemory& memory, const u16* queries, const Features& features, float scale_log2,
                   const Work& work, u32 all_begin, u32 all_end) {
  const u64 query = descriptor(queries, kQueryPanel);
  float score[2 * kPairs][4] = {}, rescale[2];
  u32 weights[kPairs][4] = {};
  for (i32 n = 0; n < work.tiles; ++n) {
    const i32 stage = n % kStages, before = (n + kStages - 1) % kStages;
    barrier_wait(&memory.keys_there[stage], phase_of(n));
    settled(score);
    product_begin();
    multiply_keys(score, query, descriptor(memory.keys[stage], kTilePanel));
    if (n > 0) {
      barrier_wait(&memory.values_there[before], phase_of(n - 1));
      settled(weights);
      settled(state.out);
      product_begin();
      multiply_columns<0>(state.out, weights, descriptor(memory.values[before], kTilePanel));
      product_commit();
      product_wait<1>();
    } else {
      product_wait<0>();
    }
    settled(score);
    done_with(&memory.keys_done[stage]);
    const u32 first = static_cast<u32>(work.first_tile + n) * kTile;
    const bool masked = (kFeatures && first < all_begin) || first + kTile > all_end;
    const bool moved = weigh(score, state, rescale, features, scale_log2, first, masked);
    settled(score);
    // a wait on either way: the compiler would move a single one up in front of the weights, which hide the products
    if (moved) {
      product_wait<0>();
      settled(state.out);
#pragma unroll
      for (int i = 0; i < 2 * kSteps; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) state.out[i][j] *= rescale[j / 2];
      }
    } else {
      product_wait<0>();
      settled(state.out);
    }
    if (n > 0) done_with(&memory.values_done[before]);
    pack_weights(weights, score);
  }
  const i32 last = work.tiles - 1;
  barrier_wait(&memory.values_there[last % kStages], phase_of(last));
  settled(weights);
  settled(state.out);
  product_begin();
  multiply_columns<0>(state.out, weights, descriptor(memory.values[last % kStages], kTilePanel));
  product_commit();
  product_wait<0>();
  settled(state.out);
}

}  // namespace pab

extern "C" __global__ void __launch_bounds__(PAB_PLAN_THREADS) paged_prefill_wgmma_plan(
    const pab::i32* kv_lens, const pab::i32* qo_indptr, pab::i32* starts, pab::RowBlock* order, pab::i32 num_seqs,
    pab::i32 num_kv_heads, pab::i32 group_size, pab::i32 min_query_len, pab::i32 causal PAB_FEATURE_PARAMETERS) {
  using namespace pab;
  grid_release();  // what attends waits for the end of this all the same
  PAB_PANELS(shared);
  const Features features = PAB_GIVEN_FEATURES(num_kv_heads * group_size);
  const Batch batch = {kv_lens, qo_indptr, num_seqs, group_size, causal, features};
  u64* scan = reinterpret_cast<u64*>(shared);
  order_blocks<kRows, kTile>(batch, min_query_len, starts, order, reinterpret_cast<u32*>(scan + kScanWords), scan);
}

extern "C" __global__ void __launch_bounds__(32 * PAB_WARPS, PAB_BLOCKS) paged_prefill_wgmma(
    const pab::Stored* q, const pab::Cached* k, const pab::Cached* v, const pab::i32* block_table,
    const pab::i32* kv_lens, const pab::i32* qo_indptr, pab::Stored* out, float* lse, const pab::i32* starts,
    const pab::RowBlock* order, pab::i32 num_seqs, pab::i32 num_qo_heads, pab::i32 num_kv_heads, pab::i32 page_size,
    pab::i32 max_pages, pab::i32 causal, pab::i64 page_stride, pab::i64 token_stride, pab::i64 head_stride,
    float scale_log2, const __grid_constant__ pab::TensorMap key_map, const __grid_constant__ pab::TensorMap value_map,
    pab::i32 box_tokens PAB_FEATURE_PARAMETERS) {
  using namespace pab;
  grid_wait();
  PAB_PANELS(shared);
  SharedMemory& memory = *reinterpret_cast<SharedMemory*>(shared);
  const i32 number = static_cast<i32>(blockIdx.x) / num_kv_heads;
  if (number >= starts[num_seqs]) return;
  const Call call = {q,         k,           v,            block_table, out,
                     lse,       num_qo_heads, page_size,    max_pages,   page_stride,
                     token_stride, head_stride, PAB_GIVEN_VALUE_STRIDES, scale_log2};
  const Features features = PAB_GIVEN_FEATURES(num_qo_heads);
  const Batch batch = {kv_lens, qo_indptr, num_seqs, num_qo_heads / num_kv_heads, causal, features};
  const RowBlock block = load_wide(&order[number]);
  Work work = {sequence_of(batch, block.sequence), block.sequence, static_cast<i32>(blockIdx.x) % num_kv_heads,
               block.first_row, block.first_row + kRows - 1, 0, 0, 0, 0};
  if (work.last_row >= work.sequence.rows()) work.last_row = work.sequence.rows() - 1;
  work.begin = work.sequence.oldest(work.first_row);
  work.end = work.sequence.limit(work.last_row);
  work.first_tile = work.begin / kTile;
  work.tiles = work.end / kTile + (work.end % kTile != 0) - work.first_tile;

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(&memory.keys_there[stage], kGroupWarps);
      barrier_init(&memory.values_there[stage], kGroupWarps);
      barrier_init(&memory.keys_done[stage], kGroupWarps * kGroups);
      barrier_init(&memory.values_done[stage], kGroupWarps * kGroups);
    }
    barriers_ready();
  }
  block_sync();
  const u32 group = threadIdx.x / kGroupThreads;  // 0 feeds
  if (group == 0) {
    registers_less<kFeedRegisters>();
    if (work.tiles > 0) feed(memory, {key_map, value_map, box_tokens}, call, work);
    return;
  }
  registers_more<kAttendRegisters>();

  const i32 warp = static_cast<i32>(threadIdx.x / kWarpSize) % kGroupWarps;
  const i32 group_row = work.first_row + kGroupRows * static_cast<i32>(group - 1), first_row = group_row + 16 * warp;
  const i32 last_row = first_row + 15 < work.last_row ? first_row + 15 : work.last_row;
  State state = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const i32 row = first_row + static_cast<i32>(lane_id()) / 4 + 8 * half, head = query_head(work, row);
    const u32 limit = static_cast<u32>(work.sequence.limit(row));
    state.row[half] = logit_row(features, head, work.sequence.position(row), limit, scale_log2);
    // a sink is one more key, without a value
    state.max[half] = sink_log2(features, head);
    state.sum[half] = lane_id() % 4 == 0 && state.max[half] > minus_infinity() ? 1.0f : 0.0f;
  }
  u16* queries = memory.queries[group - 1];
  if (work.tiles > 0) {
    fetch_queries(queries, call, work, group_row, group);
    // keys that all rows of the warp see need no mask
    const u32 all_begin = static_cast<u32>(work.sequence.oldest(last_row));
    const u32 all_end = static_cast<u32>(work.sequence.limit(first_row));
    attend(state, memory, queries, features, scale_log2, work, all_begin, all_end);
    bar_sync(group, kGroupThreads);  // no warp reads queries any more where the output goes
  }
  if (first_row <= work.last_row) write_rows(state, queries + 16 * kHeadDim * warp, call, work, first_row);
}
