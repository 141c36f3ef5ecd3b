// SPDX-License-Identifier: Apache-2.0
// Warp collectives, one entry a question; used by tests/emulator/test_collectives.py.
#include "pab/intrinsics.cuh"

namespace pab {

// out[0..31] xor, [32..63] up, [64..95] down, [96..127] idx; lanes outside the mask stay away.
template <typename T>
PAB_FN void shuffles(const T* in, T* out, u32 mask, u32 amount) {
  const u32 lane = lane_id();
  if (!((mask >> lane) & 1u)) return;
  out[lane] = shfl_xor(mask, in[lane], amount);
  out[32 + lane] = shfl_up(mask, in[lane], amount);
  out[64 + lane] = shfl_down(mask, in[lane], amount);
  out[96 + lane] = shfl_idx(mask, in[lane], amount);
}

}  // namespace pab

extern "C" __global__ void shuffles_f32(const float* in, float* out, pab::u32 mask, pab::u32 amount) {
  pab::shuffles(in, out, mask, amount);
}
extern "C" __global__ void shuffles_u32(const pab::u32* in, pab::u32* out, pab::u32 mask, pab::u32 amount) {
  pab::shuffles(in, out, mask, amount);
}
extern "C" __global__ void shuffles_i32(const pab::i32* in, pab::i32* out, pab::u32 mask, pab::u32 amount) {
  pab::shuffles(in, out, mask, amount);
}
extern "C" __global__ void shuffles_u64(const pab::u64* in, pab::u64* out, pab::u32 mask, pab::u32 amount) {
  pab::shuffles(in, out, mask, amount);
}
extern "C" __global__ void shuffles_i64(const pab::i64* in, pab::i64* out, pab::u32 mask, pab::u32 amount) {
  pab::shuffles(in, out, mask, amount);
}

// out: 5 values a lane: ballot of odd, any odd, all odd, lanes with the same value, sum.
extern "C" __global__ void votes(const pab::u32* in, pab::u32* out, pab::u32 mask) {
  using namespace pab;
  const u32 lane = lane_id();
  if (!((mask >> lane) & 1u)) return;
  const u32 mine = in[lane];
  out[5 * lane] = ballot(mask, mine & 1u);
  out[5 * lane + 1] = any(mask, mine & 1u);
  out[5 * lane + 2] = all(mask, mine & 1u);
  out[5 * lane + 3] = match_any(mask, mine);
  out[5 * lane + 4] = reduce_add(mask, mine);
}

// Three groups of lanes (lane % 3) meet among themselves a different number of times, then all together.
extern "C" __global__ void disjoint(pab::u32* rounds, pab::u32* together) {
  using namespace pab;
  const u32 lane = lane_id(), group = lane % 3;
  u32 mask = 0;
  for (u32 i = group; i < 32; i += 3) mask |= 1u << i;
  u32 value = lane;
  for (u32 round = 0; round < 2 + group; ++round) value = reduce_add(mask, value);
  rounds[lane] = value;
  together[lane] = reduce_add(kFullMask, group);
}

// The branches of an if meet separately, then all lanes again.
extern "C" __global__ void divergent(pab::u32* inside, pab::u32* after) {
  using namespace pab;
  const u32 lane = lane_id();
  u32 seen;
  if (lane < 11) {
    seen = ballot(0x7FFu, lane % 2 == 0);
  } else {
    seen = ballot(~0x7FFu, lane % 2 == 1);
    seen ^= shfl_xor(~0x7FFu, seen, 0);
    seen += reduce_add(~0x7FFu, 1);
  }
  inside[lane] = seen;
  after[lane] = ballot(kFullMask, lane >= 11);
}

// Some lanes return first, or were never there; the rest names all lanes, as CUDA allows.
extern "C" __global__ void leavers(pab::u32 leave, pab::u32* out) {
  using namespace pab;
  const u32 lane = lane_id();
  if ((leave >> lane) & 1u) return;
  u32* mine = out + 4 * threadIdx.x;
  mine[0] = ballot(kFullMask, true);
  mine[1] = reduce_add(kFullMask, lane);
  mine[2] = all(kFullMask, true);
  mine[3] = match_any(kFullMask, 7);
}

// One lane after the other returns between two votes.
extern "C" __global__ void dwindling(pab::u32* out) {
  using namespace pab;
  const u32 lane = lane_id();
  for (u32 round = 0; round <= lane; ++round) out[32 * round + lane] = ballot(kFullMask, true);
}

extern "C" __global__ void lanes(pab::u32* index, pab::u32* below, pab::u32* counts) {
  using namespace pab;
  const u32 at = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  index[at] = lane_id();
  below[at] = lanemask_lt();
  counts[2 * at] = popc(at * 0x9E3779B9u);
  counts[2 * at + 1] = ffs(at << 3);
}
