// SPDX-License-Identifier: Apache-2.0
// What a measurement needs beside the work that it times: a gate, the clock of the multiprocessors, a look at the L2.
//
//   instrument_gate    grid 1; block 1; waits until the host sets *flag, or limit_ns have passed; said[0] is 1 when it
//                      was opened, 2 when it gave up
//   instrument_clock   grid 1; block 1; said[0] cycles of the multiprocessor and said[1] nanoseconds of one span of
//                      spin_ns, so that 1000 * said[0] / said[1] is its clock in MHz
//   instrument_chase   grid 1; block 1; follows `chain` for `steps` dependent reads; said[0] cycles, said[1]
//                      nanoseconds, said[2] where it came out
//
// Layout   flag: one u32 that the host writes and the device sees, in pinned memory.  chain: a u32 every 128 bytes, that
//          holds the place of the next one, in words.
// Compile  nothing.
// Floor    gate and clock: what they wait for.  chase: steps x the latency of the level that holds the chain.
//
// The gate keeps the stream from running while the host queues, so that launches are not in the time; the limit ends a wait
// for work that in turn waits for the device.  Cycle counters of two multiprocessors have nothing in common: begin and end
// of a span are read by one thread.
#include "pab/intrinsics.cuh"

extern "C" __global__ void __launch_bounds__(1)
    instrument_gate(const pab::u32* flag, pab::u32* said, pab::u64 limit_ns) {
  using namespace pab;
  const u64 began = global_ns();
  u32 open = ld_system(flag);
  while (!open && global_ns() - began < limit_ns) open = ld_system(flag);
  said[0] = open ? 1u : 2u;
}

extern "C" __global__ void __launch_bounds__(1) instrument_clock(pab::u64* said, pab::u64 spin_ns) {
  using namespace pab;
  const u64 began = global_ns(), first = cycle_count();
  u64 now = began;
  while (now - began < spin_ns) now = global_ns();
  said[0] = cycle_count() - first;
  said[1] = now - began;
}

extern "C" __global__ void __launch_bounds__(1)
    instrument_chase(const pab::u32* chain, pab::u64* said, pab::i64 steps) {
  using namespace pab;
  u32 at = 0;
  const u64 began = global_ns(), first = cycle_count();
  // past the L1, which a kernel before this one may have filled
  for (i64 step = 0; step < steps; ++step) at = ld_relaxed(chain + at);
  said[2] = at;
  said[0] = cycle_count() - first;
  said[1] = global_ns() - began;
}
