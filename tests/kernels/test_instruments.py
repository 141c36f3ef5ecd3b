# SPDX-License-Identifier: Apache-2.0
"""The kernels beside a measurement: the gate opens or gives up, the clock counts, the walk is whole."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from pabench.kernels.instruments import CHAIN_LINES, LINE_WORDS, InstrumentKernels, chain_of
from tests.support.probe import DEVICE

HOUR_NS = 3600 * 10**9


@pytest.fixture(scope="module")
def kernels() -> InstrumentKernels:
    return InstrumentKernels(DEVICE)


def test_instruments_gate_waits_for_the_host(kernels: InstrumentKernels) -> None:
    flag = np.zeros(1, np.uint32)
    opens = threading.Timer(0.05, lambda: flag.fill(1))
    opens.start()
    kernels.gate(flag, HOUR_NS)
    opens.join()
    assert kernels.opened()


def test_instruments_gate_gives_up_where_nobody_opens(kernels: InstrumentKernels) -> None:
    flag = np.zeros(1, np.uint32)
    kernels.gate(flag, 1000)
    assert not kernels.opened()
    flag[0] = 1
    kernels.gate(flag, 1000)
    assert kernels.opened()


def test_instruments_clock_of_the_emulated_device_is_nanoseconds(kernels: InstrumentKernels) -> None:
    assert InstrumentKernels(DEVICE).mhz() is None  # nothing has been looked at
    kernels.clock()
    mhz = kernels.mhz()
    assert mhz is not None
    # the cycles are read within the nanoseconds, and a look at either may be pre-empted
    assert mhz > 0


def test_instruments_chain_leads_through_every_line_once() -> None:
    chain, seen, at = chain_of(CHAIN_LINES), [], 0
    for _ in range(CHAIN_LINES):
        seen.append(at)
        at = int(chain[at])
    assert at == 0
    assert sorted(seen) == list(range(0, CHAIN_LINES * LINE_WORDS, LINE_WORDS))
    assert seen != sorted(seen)


def test_instruments_walk_ends_where_it_began(kernels: InstrumentKernels) -> None:
    kernels._chase[2] = 99
    kernels.chase()
    assert kernels._chase[2] == 0
    assert kernels.chased_ns() > 0
