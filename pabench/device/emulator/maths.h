// SPDX-License-Identifier: Apache-2.0
// The functions of <cmath> that CUDA gives a kernel unasked, in double and with the suffix f in float.
// Declared here, since half of what a kernel's compilation read was <cmath>: its special functions and their tables.
#pragma once

#define PAB_EMU_OF_ONE(NAME)       \
  double NAME(double x) noexcept; \
  float NAME##f(float x) noexcept;
#define PAB_EMU_OF_TWO(NAME)                 \
  double NAME(double x, double y) noexcept; \
  float NAME##f(float x, float y) noexcept;

extern "C" {
PAB_EMU_OF_ONE(fabs)
PAB_EMU_OF_ONE(sqrt)
PAB_EMU_OF_ONE(cbrt)
PAB_EMU_OF_ONE(exp)
PAB_EMU_OF_ONE(exp2)
PAB_EMU_OF_ONE(expm1)
PAB_EMU_OF_ONE(log)
PAB_EMU_OF_ONE(log2)
PAB_EMU_OF_ONE(log10)
PAB_EMU_OF_ONE(log1p)
PAB_EMU_OF_ONE(logb)
PAB_EMU_OF_ONE(sin)
PAB_EMU_OF_ONE(cos)
PAB_EMU_OF_ONE(tan)
PAB_EMU_OF_ONE(asin)
PAB_EMU_OF_ONE(acos)
PAB_EMU_OF_ONE(atan)
PAB_EMU_OF_ONE(sinh)
PAB_EMU_OF_ONE(cosh)
PAB_EMU_OF_ONE(tanh)
PAB_EMU_OF_ONE(asinh)
PAB_EMU_OF_ONE(acosh)
PAB_EMU_OF_ONE(atanh)
PAB_EMU_OF_ONE(erf)
PAB_EMU_OF_ONE(erfc)
PAB_EMU_OF_ONE(tgamma)
PAB_EMU_OF_ONE(lgamma)
PAB_EMU_OF_ONE(floor)
PAB_EMU_OF_ONE(ceil)
PAB_EMU_OF_ONE(trunc)
PAB_EMU_OF_ONE(round)
PAB_EMU_OF_ONE(rint)
PAB_EMU_OF_ONE(nearbyint)
PAB_EMU_OF_TWO(pow)
PAB_EMU_OF_TWO(hypot)
PAB_EMU_OF_TWO(atan2)
PAB_EMU_OF_TWO(fmod)
PAB_EMU_OF_TWO(remainder)
PAB_EMU_OF_TWO(fdim)
PAB_EMU_OF_TWO(fmax)
PAB_EMU_OF_TWO(fmin)
PAB_EMU_OF_TWO(copysign)
PAB_EMU_OF_TWO(nextafter)
double fma(double x, double y, double z) noexcept;
float fmaf(float x, float y, float z) noexcept;
double frexp(double x, int* exponent) noexcept;
float frexpf(float x, int* exponent) noexcept;
double ldexp(double x, int exponent) noexcept;
float ldexpf(float x, int exponent) noexcept;
double scalbn(double x, int exponent) noexcept;
float scalbnf(float x, int exponent) noexcept;
double modf(double x, double* whole) noexcept;
float modff(float x, float* whole) noexcept;
int ilogb(double x) noexcept;
int ilogbf(float x) noexcept;
long lrint(double x) noexcept;
long lrintf(float x) noexcept;
long lround(double x) noexcept;
long lroundf(float x) noexcept;
long long llrint(double x) noexcept;
long long llrintf(float x) noexcept;
long long llround(double x) noexcept;
long long llroundf(float x) noexcept;
}
#undef PAB_EMU_OF_ONE
#undef PAB_EMU_OF_TWO

#ifndef INFINITY
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#endif
