# SPDX-License-Identifier: Apache-2.0
"""Sampling: the interval of the median, the rule that stops, the warm-up, the cold cache, the GPU's state."""

from __future__ import annotations

import math
import stat
import subprocess
from collections.abc import Callable, Iterator
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.errors import InvalidCase
from pabench.timing.clocks import strays, taken_twice, unstable
from pabench.timing.cold import (
    CACHES,
    MAX_SETS,
    L2Probe,
    calls_per_sample,
    is_cold,
    rotation_sets,
    sets_of,
)
from pabench.timing.sampler import StopRule, median_interval, sample, warm_up
from pabench.timing.smi import Smi, parse_state


def calls(values: Iterator[float]) -> Callable[[], float]:
    return lambda: next(values)


def ticking(step: float) -> Callable[[], float]:
    ticks = count()
    return lambda: step * next(ticks)


def test_sampler_interval_has_the_ranks_of_the_sign_test() -> None:
    assert median_interval(range(1, 101)) == (40, 61)  # n = 100: the 40th and 61st
    assert median_interval(range(1, 7)) == (1, 6)
    assert median_interval([5.0, 3.0]) == (3.0, 5.0)


@given(n=st.integers(6, 400))
@settings(max_examples=60, deadline=None)
def test_sampler_interval_covers_and_is_no_wider_than_it_must_property(n: int) -> None:
    low, high = median_interval(range(1, n + 1))
    k = int(low)
    assert high == n + 1 - k
    outside = [sum(math.comb(n, i) for i in range(j)) / 2 ** (n - 1) for j in (k, k + 1)]
    assert outside[0] <= 0.05 < outside[1]


def test_sampler_interval_covers_the_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    draws = rng.exponential(size=(2000, 60))
    covered = [low <= math.log(2) <= high for low, high in map(median_interval, draws.tolist())]
    assert 0.94 < np.mean(covered) < 0.985


def test_sampler_stops_when_the_median_is_known() -> None:
    taken = sample(calls(repeat(100.0)), StopRule(least=7, most=50, seconds=9), clock=lambda: 0.0)
    assert (taken.stopped, taken.values_ns, taken.median_ns) == ("precise", (100.0,) * 7, 100.0)
    assert taken.interval_ns == (100.0, 100.0)


def test_sampler_stops_at_the_count_and_keeps_every_sample_in_its_order() -> None:
    values = [float(100 + 50 * (i % 2)) for i in range(99)]
    taken = sample(calls(iter(values)), StopRule(least=5, most=31, seconds=9), clock=lambda: 0.0)
    assert (taken.stopped, list(taken.values_ns)) == ("count", values[:31])


def test_sampler_stops_when_time_is_over_but_not_before_the_least() -> None:
    noisy = calls(float(100 + 50 * (i % 2)) for i in count())
    taken = sample(noisy, StopRule(least=5, most=1000, seconds=2.0), clock=ticking(0.25))
    assert (taken.stopped, len(taken.values_ns)) == ("time", 9)
    slow = sample(noisy, StopRule(least=5, most=1000, seconds=2.0), clock=ticking(8.0))
    assert (slow.stopped, len(slow.values_ns)) == ("time", 3)  # ten times as long is enough


def test_sampler_refuses_a_rule_that_cannot_hold() -> None:
    with pytest.raises(InvalidCase, match=r"least = 3: must be in 1\.\.2"):
        StopRule(least=3, most=2)


def test_sampler_warms_up_until_two_times_agree() -> None:
    times = chain([900.0, 400.0, 200.0, 101.0, 100.0], repeat(-1.0))
    warmth = warm_up(calls(times), seconds=0.0, clock=lambda: 0.0)
    assert (warmth.last_ns, warmth.calls, warmth.settled) == (100.0, 5, True)
    ever = calls(float(2**i) for i in count())
    warmth = warm_up(ever, limit_seconds=3.0, clock=ticking(1.0))
    assert (warmth.last_ns, warmth.settled) == (2.0**3, False)
    steady = calls(iter([1.0] * 6))
    assert warm_up(steady, seconds=3.0, limit_seconds=9.0, clock=ticking(1.0)).calls == 4


def test_sampler_warms_up_until_the_clock_stands_still() -> None:
    rising = chain((1000.0 + 50 * i for i in range(10)), repeat(1500.0))
    warmth = warm_up(
        lambda: 100.0, seconds=0.0, limit_seconds=5.0, clock=ticking(0.0625), mhz=lambda: next(rising)
    )
    assert warmth.settled
    # ten looks below 1,500 MHz, then four steps until 0.2 s are over
    assert warmth.calls == 2 + 10 + 4
    jumping = chain.from_iterable(repeat((1000.0, 1100.0)))
    warmth = warm_up(
        lambda: 100.0, seconds=0.0, limit_seconds=1.0, clock=ticking(0.0625), mhz=lambda: next(jumping)
    )
    assert not warmth.settled
    assert warmth.calls == 2 + 15


def test_clock_strays_are_marked_and_kept() -> None:
    rates = [1980.0] * 7 + [None, 1870.0, 1900.0]
    assert strays(rates) == (False,) * 8 + (True, False)
    assert strays([None, None]) == (False, False)
    assert not unstable(rates)
    assert unstable([1980.0] * 7 + [1580.0] * 3)
    assert not unstable([1980.0] * 8 + [1580.0] * 2)


def test_clock_that_moved_is_measured_once_more_and_no_third_time() -> None:
    moved, still = [1980.0] * 5 + [1500.0] * 3, [1980.0] * 8
    pauses: list[int] = []

    def taken(*runs: list[float]) -> tuple[list[float], bool]:
        left = iter(runs)
        pauses.clear()
        return taken_twice(lambda: next(left), lambda found: found, lambda: pauses.append(1))

    assert taken(still, moved) == (still, False)
    assert not pauses
    assert taken(moved, still) == (still, True)
    assert taken(moved, moved, still) == (moved, True)
    assert len(pauses) == 1


def test_cold_probe_tells_which_it_is_nearer_to() -> None:
    def probe(after_ns: float, dram_ns: float = 800.0) -> L2Probe:
        return L2Probe(hot_ns=200.0, dram_ns=dram_ns, after_ns=after_ns)

    assert [probe(after).cold for after in (200.0, 390.0, 410.0, 790.0)] == [False, False, True, True]
    assert probe(1).tells
    assert not probe(1, dram_ns=230.0).tells


@pytest.mark.parametrize(("policy", "sets"), [("cold-rotate", 4), ("cold-flush", 1), ("hot", 1)])
def test_cold_policies_need_sets_of_their_own(policy: str, sets: int) -> None:
    assert sets_of(policy, 128 * 2**20, 60 * 2**20) == sets


@given(touched=st.integers(0, 2**36), l2=st.integers(0, 2**27))
def test_cold_sets_are_the_fewest_that_push_each_other_out_property(touched: int, l2: int) -> None:
    sets = rotation_sets(touched, l2)
    assert 1 <= sets <= MAX_SETS
    if sets < MAX_SETS:
        assert is_cold(touched, l2, sets)
        assert sets == 1 or not is_cold(touched, l2, sets - 1)
        assert sets == 1 or (sets - 1) * touched >= CACHES * l2


def test_cold_sets_of_an_h200() -> None:
    mib = 2**20
    assert [rotation_sets(size * mib, 60 * mib) for size in (512, 300, 299, 128, 16)] == [1, 1, 3, 4, 20]
    with pytest.raises(InvalidCase):
        rotation_sets(-1, 5)


@given(call_ns=st.floats(0, 1e9), sets=st.integers(1, MAX_SETS))
def test_cold_samples_are_whole_turns_property(call_ns: float, sets: int) -> None:
    many = calls_per_sample(call_ns, sets)
    assert many >= sets
    assert many % sets == 0
    assert many * call_ns >= 300_000 or many + sets > 512
    few = calls_per_sample(call_ns, sets, most=32)
    assert few <= many
    assert few == sets or few <= 32


LINE = "NVIDIA H200, 580.95.05, 1980, 1980, 3201, 123.45, 700.00, 41, P0\n"


def tool(folder: Path, body: str) -> str:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_smi_reads_the_state() -> None:
    state = parse_state(LINE)
    assert state is not None
    assert (state.name, state.sm_mhz, state.power_w, state.temperature_c) == ("NVIDIA H200", 1980, 123.45, 41)
    assert set(state.moving()) == {"sm_mhz", "memory_mhz", "power_w", "temperature_c", "state"}
    partly = parse_state("GPU, 1, [N/A], [Not Supported], 1, x, 1, N/A, P0")
    assert partly is not None
    assert (partly.sm_mhz, partly.power_w, partly.temperature_c, partly.state) == (None, None, None, "P0")
    assert parse_state("No devices were found\n") is None
    assert parse_state("") is None


def test_smi_asks_for_one_gpu_and_sets_nothing(tmp_path: Path) -> None:
    smi = Smi(
        "0000:01:00.0", program=tool(tmp_path, f'echo "$@" > {tmp_path}/asked\nprintf "{LINE.strip()}"')
    )
    state = smi.read()
    assert state is not None
    assert state.driver == "580.95.05"
    words = (tmp_path / "asked").read_text().split()
    assert words[:2] == ["-i", "0000:01:00.0"]
    assert [word.split("=")[0] for word in words[2:]] == ["--query-gpu", "--format"]


@pytest.mark.parametrize(
    ("body", "deadline_s", "problem"),
    [
        ("echo 'NVIDIA-SMI has failed'; exit 9", 60.0, "NVIDIA-SMI has failed"),
        ("exit 9", 60.0, "exit code 9"),
        ("exec sleep 3600", 0.2, "did not answer within 0.2 s"),
    ],
)
def test_smi_that_does_not_answer_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, deadline_s: float, problem: str
) -> None:
    asked: list[object] = []
    ask = subprocess.run

    def counted(*words: Any, **options: Any) -> Any:
        asked.append(words)
        return ask(*words, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    smi = Smi(program=tool(tmp_path, body), deadline_s=deadline_s)
    assert smi.read() is None
    assert smi.problem is not None
    assert problem in smi.problem
    assert smi.read() is None
    assert len(asked) == 1


def test_smi_may_be_absent() -> None:
    smi = Smi(program="no-such-nvidia-smi")
    assert (smi.read(), smi.problem) == (None, "no-such-nvidia-smi is not installed")
