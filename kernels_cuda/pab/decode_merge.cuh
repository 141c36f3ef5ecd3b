// The end of a piece of paged_decode.cu: warps join their states, and the last piece of a unit to arrive merges all.
//
// Part of that kernel, not of others: it uses the constants and the memory that paged_decode.cu defines before it.
#pragma once

#include "pab/decode_line.cuh"

namespace pab {

// Eight neighbouring elements of a row while states are merged.
struct Merged {
  float out[8];
  float max, sum;
};

// Adds a state whose output is scaled to its own maximum `max`, given the maximum of all.  That of the maximum has
// weight 1 exactly, since ex2 of 0 is: states without weight beside it change no bit.
PAB_FN void merge(Merged& merged, const float (&out)[8], float max, float sum) {
  // a state that saw nothing has maximum -inf and weight 0, whatever the others have
  const float weight = ex2(max - (merged.max == minus_infinity() ? 0.0f : merged.max));
  merged.sum = fmadd(sum, weight, merged.sum);
#pragma unroll
  for (int i = 0; i < 8; ++i) merged.out[i] = fmadd(out[i], weight, merged.out[i]);
}

// Writes eight elements of a packed row, and its LSE, from the state of all its keys.
PAB_FN void write_result(const Call& call, const Batch& batch, const Work& work, Merged merged, i32 row, int chunk) {
  float scale = 1.0f;
  if constexpr (kFeatures) {
    const int head = query_head(batch, work, row);
    const float sink = sink_log2(batch.features, head);
    scale = value_scale(batch.features, head);
    if (sink > minus_infinity()) {  // one more key, without a value
      const float top = fmaxf(merged.max, sink), keys = ex2(merged.max - top);
      merged.sum = fmadd(merged.sum, keys, ex2(sink - top));
      merged.max = top;
      scale *= keys;
    }
  }
  // no key: output 0, LSE -inf or that of the sink; a NaN among the logits, or nothing but -inf, comes out as NaN
  const float inverse = row_limit(call, batch, work, row) > 0 ? scale / merged.sum : 0.0f;
  const i64 target = query_row(call, batch, work, row);
  Pack<u32, 4> packed;
#pragma unroll
  for (int i = 0; i < 4; ++i) packed.at[i] = pack_pair(merged.out[2 * i] * inverse, merged.out[2 * i + 1] * inverse);
  store_pack(reinterpret_cast<u32*>(call.out + target * kHeadDim + 8 * chunk), packed);
  if (chunk == 0) call.lse[target] = (merged.max + lg2(merged.sum)) * kLn2;
}

// The unit's last piece to arrive merges all of them, in their order.
PAB_FN void merge_pieces(const Call& call, const Batch& batch, const Work& work, i32 rows) {
  for (int index = static_cast<int>(threadIdx.x); index < rows * kChunks; index += kThreads) {
    const int row = index / kChunks, chunk = index % kChunks;
    Merged merged = {{}, minus_infinity(), 0.0f};
    for (i32 piece = 0; piece < work.pieces; ++piece) {
      const i64 at = partial_slot(work, piece, batch.split_tiles) * kUnitRows + row;
      merged.max = fmaxf(merged.max, call.partial_max[at]);
    }
    for (i32 piece = 0; piece < work.pieces; ++piece) {
      const i64 at = partial_slot(work, piece, batch.split_tiles) * kUnitRows + row;
      const Pack<float, 4> low = load_pack<4>(call.partial_out + at * kHeadDim + 8 * chunk);
      const Pack<float, 4> high = load_pack<4>(call.partial_out + at * kHeadDim + 8 * chunk + 4);
      const float out[8] = {low.at[0],  low.at[1],  low.at[2],  low.at[3],
                            high.at[0], high.at[1], high.at[2], high.at[3]};
      merge(merged, out, call.partial_max[at], call.partial_sum[at]);
    }
    write_result(call, batch, work, merged, work.first_row + row, chunk);
  }
}

// Joins the warps' states at the end of a piece and writes the result, or a partial one.  A pass is 16 * kPassSteps
// columns, which take the place of the tokens.
PAB_FN void end_piece(SharedMemory& memory, State& state, Slice* slices, const Call& call, const Batch& batch,
                      const Work& work) {
  constexpr int kPacks = 4 * kPassSteps;  // of four floats in a row; they are swizzled as chunks are
  const int lane = static_cast<int>(lane_id()), warp = static_cast<int>(threadIdx.x) / 32;
  float* mine = slices[warp].out;
  warp_sync(kFullMask);  // all lanes are done with the tokens that the output replaces
  i32 rows = 0;
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int first = pass * kPassSteps, steps = kSteps - first < kPassSteps ? kSteps - first : kPassSteps;
    if (pass > 0) block_sync();  // all threads are done with the pass before
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane / 4 + 8 * half;
#pragma unroll
      for (int i = 0; i < 2 * steps; ++i) {
        if constexpr (kE4m3) {
          if (i % 2) continue;
          const Pack<float, 4> four = row_of_e4m3(state.out[2 * first + i], state.out[2 * first + i + 1], half);
          store_pack(mine + chunk_offset<kPacks>(row, 2 * i + lane % 4) / 4, four);
        } else {
          const int at = chunk_offset<kPacks>(row, 2 * i + lane % 4 / 2) / 4 + 2 * (lane % 2);
          store_pack(mine + at, Pack<float, 2>{{state.out[i][2 * half], state.out[i][2 * half + 1]}});
        }
      }
      if (pass > 0) continue;
      const float sum = quad_sum(state.sum[half]);
      if (lane % 4 == 0) {
        memory.max[warp][row] = state.max[half];
        memory.sum[warp][row] = sum;
      }
    }
    block_sync();

    const i32 left = work.query_len * batch.group_size - work.first_row;
    rows = left < kUnitRows ? left : kUnitRows;
    for (int index = static_cast<int>(threadIdx.x); index < rows * 2 * steps; index += kThreads) {
      const int row = index / (2 * steps), place = index % (2 * steps), chunk = 2 * first + place;
      Merged merged = {{}, minus_infinity(), 0.0f};
#pragma unroll
      for (int w = 0; w < kWarps; ++w) merged.max = fmaxf(merged.max, memory.max[w][row]);
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        const Pack<float, 4> low = load_pack<4>(slices[w].out + chunk_offset<kPacks>(row, 2 * place) / 4);
        const Pack<float, 4> high = load_pack<4>(slices[w].out + chunk_offset<kPacks>(row, 2 * place + 1) / 4);
        const float out[8] = {low.at[0],  low.at[1],  low.at[2],  low.at[3],
                              high.at[0], high.at[1], high.at[2], high.at[3]};
        merge(merged, out, memory.max[w][row], memory.sum[w][row]);
      }
      if (work.pieces == 1) {
        write_result(call, batch, work, merged, work.first_row + row, chunk);
        continue;
      }
      const i64 at = partial_slot(work, work.piece, batch.split_tiles) * kUnitRows + row;
      float* target = call.partial_out + at * kHeadDim + 8 * chunk;
      store_pack(target, Pack<float, 4>{{merged.out[0], merged.out[1], merged.out[2], merged.out[3]}});
      store_pack(target + 4, Pack<float, 4>{{merged.out[4], merged.out[5], merged.out[6], merged.out[7]}});
      if (chunk == 0) {
        call.partial_max[at] = merged.max;
        call.partial_sum[at] = merged.sum;
      }
    }
  }
  if (work.pieces == 1) return;

  fence_device();  // what this thread wrote, before the block's arrival
  block_sync();
  if (threadIdx.x == 0) {
    const u32 before = atomic_add(call.arrivals + work.home, 1u);
    memory.last = before + 1 == static_cast<u32>(work.pieces);
    if (memory.last) atomic_exch(call.arrivals + work.home, 0u);  // ready for the next launch
  }
  block_sync();
  if (!memory.last) return;
  fence_device();  // what the others wrote, after their arrival
  merge_pieces(call, batch, work, rows);
}

}  // namespace pab
