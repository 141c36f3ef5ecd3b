// SPDX-License-Identifier: Apache-2.0
// Switching between fibers: the stack pointer of one is saved, that of the other is loaded.
//
// On x86-64 and aarch64 a switch saves the callee-saved registers only (about 2 ns); elsewhere ucontext does
// the same with two system calls, slower but portable.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pab_emu {

#if !defined(__x86_64__) && !defined(__aarch64__)
#define PAB_EMU_UCONTEXT  // may also be defined by hand, to test the fallback
#endif

#ifndef PAB_EMU_UCONTEXT

// A suspended fiber is its stack pointer; the registers lie on its stack.
using Context = void*;

// Saves the running fiber into *from and continues `to`.
extern "C" void pab_emu_switch(Context* from, Context to);

#else

struct UContext;  // defined by the runtime
using Context = UContext*;
extern "C" void pab_emu_switch(Context* from, Context to);

#endif

}  // namespace pab_emu
