// SPDX-License-Identifier: Apache-2.0
// From a kernel function to something the launcher can call: unpacks an array of pointers to arguments.
#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

// The launcher's own accesses are not the kernel's.
#define PAB_EMU_UNCHECKED __attribute__((no_sanitize("thread", "alignment")))

namespace pab_emu {

template <typename... Args, std::size_t... I>
PAB_EMU_UNCHECKED inline void invoke_with(void (*kernel)(Args...), void** args, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_cvref_t<Args>*>(args[I])...);
}

template <typename... Args>
PAB_EMU_UNCHECKED inline void invoke(void (*kernel)(Args...), void** args) {
  invoke_with(kernel, args, std::index_sequence_for<Args...>{});
}

// One letter a parameter, for the launcher's check: p pointer, c pointer to const, i signed, u unsigned, f floating;
// then its size.
template <typename T>
constexpr int describe() {
  const int pointer = std::is_const_v<std::remove_pointer_t<T>> ? 'c' : 'p';
  const int kind = std::is_pointer_v<T> ? pointer : std::is_floating_point_v<T> ? 'f' : std::is_signed_v<T> ? 'i' : 'u';
  return (kind << 16) + static_cast<int>(sizeof(T));
}

template <typename... Args>
inline int signature(void (*)(Args...), int* out) {
  static_assert(sizeof...(Args) <= 64, "a kernel takes at most 64 parameters");  // the launcher's room for them
  int n = 0;
  ((out[n++] = describe<std::remove_cvref_t<Args>>()), ...);
  return n;
}

}  // namespace pab_emu

// The kernel is called through what the compiler cannot see through: inlined here it would lose its own instrumentation
// or give it to the reads of `args`.
#define PAB_EMU_ENTRY(kernel)                                                     \
  extern "C" PAB_EMU_UNCHECKED void pab_emu_invoke_##kernel(void** args) {        \
    auto* volatile entry = &kernel;                                               \
    ::pab_emu::invoke(+entry, args);                                              \
  }                                                                               \
  extern "C" int pab_emu_signature_##kernel(int* out) { return ::pab_emu::signature(&kernel, out); }
