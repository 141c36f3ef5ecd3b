// SPDX-License-Identifier: Apache-2.0
// Lists of keys: an instance of a decode kernel that attends to the keys that some row of a sequence sees, and reads no
// others, however few and wherever they are.
//
//   PAB_KEY_LISTS    1: the kernels take PAB_KEY_LIST_PARAMETERS after all others; 0 or not defined: none of it is compiled
//
//   list_begins      (num_seqs + 1) where each sequence's list begins in list_positions
//   list_positions   tokens that some row of the sequence sees, ascending
//   list_words       (num_query_tokens, words_per_row) bit p % 32 of word p / 32: whether the row sees the token at place p
//                    of its sequence's list
//   row_keys         (num_query_tokens) how many tokens the row sees
//
// Causal flag and window are in the lists already: the arguments of both are 0.  The two arrays of rows are not read for
// sequences of one query token, which sees all of its list.
#pragma once

#include "pab/intrinsics.cuh"

#if defined(PAB_KEY_LISTS) && PAB_KEY_LISTS
#define PAB_KEY_LIST_PARAMETERS                                                                          \
  , const pab::i32 *list_begins, const pab::i32 *list_positions, const pab::u32 *list_words,              \
      pab::i32 words_per_row, const pab::i32 *row_keys
#define PAB_GIVEN_KEY_LISTS \
  , pab::KeyLists { list_begins, list_positions, list_words, row_keys, words_per_row }
#else
#define PAB_KEY_LISTS 0
#define PAB_KEY_LIST_PARAMETERS
#define PAB_GIVEN_KEY_LISTS
#endif

namespace pab {

#if PAB_KEY_LISTS
constexpr bool kKeyLists = true;
struct KeyLists {
  const i32 *begins, *positions;
  const u32* words;
  const i32* row_keys;
  i32 words_per_row;
};
#else
constexpr bool kKeyLists = false;
#endif

}  // namespace pab
