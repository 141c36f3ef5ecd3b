// SPDX-License-Identifier: Apache-2.0
// Logits of a decode kernel's accumulators, two of 16 rows x 8 keys beside each other: of a range of keys, or with
// PAB_KEY_LISTS of places on a list, of which each row's bits say whether it sees them.
//
// Part of paged_decode.cu and paged_decode_latent.cu, not of others.
#pragma once

#include "pab/decode_line.cuh"
#include "pab/fragment_logits.cuh"

namespace pab {

#if PAB_KEY_LISTS
// Query tokens of a lane's two rows.
struct ListedRows {
  i32 query[2];
};

// What a lane's two rows see of 16 places: bit 16 * half + 8 * i + j % 2 is its element j of accumulator i.
struct Shown {
  u32 bits;
  const i32* positions;  // of the lane's first element
};

// The query token of packed row `row`, or the last one where no query has that row.
PAB_FN i32 listed_query(const Batch& batch, const Work& work, i32 row) {
  const i32 token = row / batch.group_size;
  return work.first_query + (token < work.query_len ? token : work.query_len - 1);
}

PAB_FN void note_listed_row(ListedRows& rows, int half, const Batch& batch, const Work& work, i32 row) {
  rows.query[half] = listed_query(batch, work, row);
}

// What the rows see of the 16 places from `first` on, a multiple of 16.
PAB_FN Shown shown_places(const Batch& batch, const Work& work, const ListedRows& rows, u32 first) {
  const i32 left = work.kv_len - static_cast<i32>(first), column = 2 * static_cast<i32>(lane_id() % 4);
  u32 bits = left <= 0 ? 0 : left < 16 ? (1u << left) - 1 : 0xffff;
  bits |= bits << 16;
  if (work.query_len > 1 && left > 0) {
    const u32* words = batch.lists.words + first / 32;
    const u32 low = words[static_cast<i64>(rows.query[0]) * batch.lists.words_per_row] >> first % 32;
    const u32 high = words[static_cast<i64>(rows.query[1]) * batch.lists.words_per_row] >> first % 32;
    bits &= (low & 0xffff) | high << 16;
  }
  return {bits >> column, batch.lists.positions + work.list + static_cast<i64>(first) + column};
}

// The logit of the lane's element j of accumulator i, -inf when its row does not see it.  A bias goes by the token's
// position, which is looked up where there is one.
PAB_FN float shown_logit(const Features& given, const LogitRow& row, float product, [[maybe_unused]] u32 place,
                         float scale_log2, const Shown& shown, int i, int j) {
  const bool seen = shown.bits >> (16 * (j / 2) + 8 * i + j % 2) & 1;
  i32 position = 0;
#if PAB_FEATURES
  if (seen && row.slope != 0.0f) position = shown.positions[8 * i + j % 2];
#endif
  const float logit = seen_logit(given, row, product, static_cast<u32>(position), scale_log2);
  return seen ? logit : minus_infinity();
}
#else
struct ListedRows {};
struct Shown {};

PAB_FN void note_listed_row(ListedRows&, int, const Batch&, const Work&, i32) {}
PAB_FN Shown shown_places(const Batch&, const Work&, const ListedRows&, u32) { return {}; }
PAB_FN float shown_logit(const Features& given, const LogitRow& row, float product, u32 token, float scale_log2,
                         const Shown&, int, int) {
  return masked_logit(given, row, product, token, scale_log2);
}
#endif

}  // namespace pab
