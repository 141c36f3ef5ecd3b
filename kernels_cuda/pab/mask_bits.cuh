// SPDX-License-Identifier: Apache-2.0
// Which keys each query row sees, as bits, for kernels that take any set of them.
//
//   PAB_MASKS       1: the kernel takes PAB_MASK_PARAMETERS behind those of pab/features.cuh, causal and window are 0
//
//   mask_words      (num_query_tokens, words_per_row): bit t % 32 of word t / 32 says that the row sees key t; 0 from
//                   the length of its sequence on
//   words_per_row   enough for the longest sequence
#pragma once

#include "pab/intrinsics.cuh"

namespace pab {

#if defined(PAB_MASKS) && PAB_MASKS
constexpr bool kMasks = true;
#define PAB_MASK_PARAMETERS , const pab::u32 *mask_words, pab::i32 words_per_row
#define PAB_GIVEN_MASK \
  pab::MaskBits { mask_words, words_per_row }
struct MaskBits {
  const u32* words;
  i32 words_per_row;
};

// The keys 32 * word .. 32 * word + 31 that query row `row` sees.
PAB_FN u32 mask_word(const MaskBits& mask, i32 row, i32 word) {
  return word < mask.words_per_row ? mask.words[static_cast<i64>(row) * mask.words_per_row + word] : 0;
}
#else
constexpr bool kMasks = false;
#define PAB_MASK_PARAMETERS
#define PAB_GIVEN_MASK \
  pab::MaskBits {}
struct MaskBits {};
PAB_FN u32 mask_word(const MaskBits&, i32, i32) { return kFullMask; }
#endif

}  // namespace pab
