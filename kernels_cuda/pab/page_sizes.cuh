// SPDX-License-Identifier: Apache-2.0
// Tokens of a page, which rows of several KV groups may have of their own.
//
// PAB_GROUPS 1: groups share the pool, and what a request names is a row, sequence * groups + group, with a length of
//               its own; page_sizes (groups) i32.  A request of a sequence is one for each of its rows.
#pragma once

#include "pab/types.cuh"

#if defined(PAB_GROUPS) && PAB_GROUPS
#define PAB_GROUP_PARAMETERS , const pab::i32 *page_sizes, pab::i32 groups
#define PAB_PAGE_SIZES {page_size, page_sizes, groups}
#else
#undef PAB_GROUPS
#define PAB_GROUPS 0
#define PAB_GROUP_PARAMETERS
#define PAB_PAGE_SIZES {page_size}
#endif

namespace pab {

struct PageSizes {
  i32 size;  // of every row where there are no groups; of an entry without a row
#if PAB_GROUPS
  const i32* of_group;
  i32 groups;

  PAB_METHOD i32 of(i32 row) const { return row < 0 ? size : of_group[row % groups]; }
#else
  PAB_METHOD i32 of(i32) const { return size; }
#endif
};

}  // namespace pab
