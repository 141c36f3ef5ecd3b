// SPDX-License-Identifier: Apache-2.0
// What nvcc gives every source without an include, and NVRTC does not.
#pragma once

#ifndef INFINITY
#define INFINITY __int_as_float(0x7F800000)
#endif
#ifndef NAN
#define NAN __int_as_float(0x7FFFFFFF)
#endif
#ifndef HUGE_VALF
#define HUGE_VALF INFINITY
#endif
#include "cstdint"
