// SPDX-License-Identifier: Apache-2.0
// Keys and values that lie apart in the cache: of different widths, or each with strides of its own.
//
//   PAB_HEAD_DIM_V   elements of a value; the kernel then takes PAB_VALUE_PARAMETERS, element strides of the values,
//                    behind those of the keys.  Not defined: values are as wide as keys and lie as they do.
#pragma once

#include "pab/intrinsics.cuh"

namespace pab {

#if defined(PAB_HEAD_DIM_V)
constexpr bool kApart = true;
constexpr int kValueDim = PAB_HEAD_DIM_V;
#define PAB_VALUE_PARAMETERS , pab::i64 value_page_stride, pab::i64 value_token_stride, pab::i64 value_head_stride
#define PAB_GIVEN_VALUE_STRIDES \
  pab::ValueStrides { value_page_stride, value_token_stride, value_head_stride }
struct ValueStrides {
  i64 page, token, head;

  // Where the value of a token of a page begins, in elements.
  PAB_METHOD i64 place(i64 at_page, u32 within, i32 kv_head) const {
    return at_page * page + within * token + kv_head * head;
  }
};
#else
constexpr bool kApart = false;
constexpr int kValueDim = PAB_HEAD_DIM;
#define PAB_VALUE_PARAMETERS
#define PAB_GIVEN_VALUE_STRIDES \
  pab::ValueStrides {}
struct ValueStrides {
  PAB_METHOD i64 place(i64, u32, i32) const { return 0; }
};
#endif

}  // namespace pab
