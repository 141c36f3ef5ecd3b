// Where chunks of a swizzled tile lie; used by tests/test_fragments.py.
#define PAB_DTYPE 2
#include "pab/fragments.cuh"

namespace pab {

template <int kChunks>
PAB_FN void offsets(i32* out) {
  for (int row = 0; row < 16; ++row) {
    for (int chunk = 0; chunk < kChunks; ++chunk) out[row * kChunks + chunk] = chunk_offset<kChunks>(row, chunk);
  }
}

}  // namespace pab

// out (16, chunks)
extern "C" __global__ void swizzle(pab::i32* out, pab::i32 chunks) {
  using namespace pab;
  switch (chunks) {
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
