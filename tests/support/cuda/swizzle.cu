// SPDX-License-Identifier: Apache-2.0
// Where chunks of a swizzled tile lie; used by tests/kernels/test_fragments.py.
#define PAB_DTYPE 2
#include "pab/fragments_e4m3.cuh"

namespace pab {

template <int kChunks>
PAB_FN void offsets(i32* out) {
  for (int row = 0; row < 16; ++row) {
    for (int chunk = 0; chunk < kChunks; ++chunk) out[row * kChunks + chunk] = chunk_offset<kChunks>(row, chunk);
  }
}

template <int kSteps>
PAB_FN void query_offsets(i32* out) {
  for (int row = 0; row < 16; ++row) {
    for (int chunk = 0; chunk < 2 * kSteps; ++chunk) {
      out[row * 2 * kSteps + chunk] = query_offset_for_e4m3<kSteps>(row, chunk);
    }
  }
}

}  // namespace pab

// out (16, chunks)
extern "C" __global__ void swizzle(pab::i32* out, pab::i32 chunks) {
  using namespace pab;
  switch (chunks) {
    case 1: offsets<1>(out); break;
    case 3: offsets<3>(out); break;
    case 5: offsets<5>(out); break;
    case 7: offsets<7>(out); break;
    case 2: offsets<2>(out); break;
    case 6: offsets<6>(out); break;
    case 8: offsets<8>(out); break;
    case 10: offsets<10>(out); break;
    case 12: offsets<12>(out); break;
    case 14: offsets<14>(out); break;
    case 16: offsets<16>(out); break;
    case 24: offsets<24>(out); break;
    case 32: offsets<32>(out); break;
  }
}

// out (16, 2 * steps)
extern "C" __global__ void query_for_e4m3(pab::i32* out, pab::i32 steps) {
  using namespace pab;
  switch (steps) {
    case 1: query_offsets<1>(out); break;
    case 4: query_offsets<4>(out); break;
    case 5: query_offsets<5>(out); break;
    case 6: query_offsets<6>(out); break;
    case 7: query_offsets<7>(out); break;
    case 8: query_offsets<8>(out); break;
    case 12: query_offsets<12>(out); break;
    case 16: query_offsets<16>(out); break;
  }
}
