# SPDX-License-Identifier: Apache-2.0
"""The driver: who runs when, what it costs in pages, and that every request gets its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pabench.activities.serving import schedulers
from pabench.activities.serving.config import ServingConfig
from pabench.activities.serving.driver import NEVER_FITS
from pabench.activities.serving.executors import NullExecutor
from pabench.activities.serving.limits import Limits
from pabench.activities.serving.metrics import latency_columns
from pabench.activities.serving.recorded import JudgedAllocator
from pabench.activities.serving.schedulers import (
    SCHEDULERS,
    Candidate,
    Scheduler,
    scheduler_by_name,
    scheduler_names,
)
from pabench.activities.serving.serve import serve
from pabench.activities.serving.workload import make_workload
from pabench.errors import InvalidCase, Unsupported, UsageError
from pabench.judge.allocators.invariants import violation
from pabench.workloads.prefixes import with_prefixes
from pabench.workloads.requests import Requests
from pabench.workloads.structure import Turns
from tests.support.serving_support import asked, pool, run

MINE = OTHER = Scheduler(name="mine", about="as a package brings it")


def test_driver_times_of_two_requests() -> None:
    served = run(asked((5, 3), (4, 1), (3, 2), arrival_s=(0, 0.5, 10)), pool())
    log = served.log
    # each step takes a second; the second arrives in the first step, the third after a pause
    assert log.scheduled_s == [0, 1, 10]
    assert log.first_token_s == [1, 2, 11]
    assert log.finish_s == [3, 2, 12]
    assert served.steps["decode_tokens"].tolist() == [0, 1, 1, 0, 1]
    assert served.steps["prefill_tokens"].tolist() == [5, 4, 0, 3, 0]
    # the new token is cached when it is read: 6 and 7 after 5
    assert served.steps["context_tokens"].tolist() == [0, 6, 7, 0, 4]
    # 5, then 6 and 4, then 7, 3 and 4 tokens in pages of 4
    assert served.steps["used_pages"].tolist() == [2, 3, 2, 1, 1]
    assert served.steps["running"].tolist() == [1, 2, 1, 1, 1]


def test_driver_turns_wait_for_the_turn_before() -> None:
    turns = Turns(after=np.array([-1, 0, 0, 1]), delay_s=np.array([0, 1.5, 0, 0]))
    requests = asked((5, 3), (4, 1), (3, 2), (2, 1), arrival_s=(0, 0, 5, 6), turns=turns)
    served = run(requests, pool())
    # the first ends at 3, so that the second comes at 4.5, in the step that begins then; the third no
    # earlier than its own time, and the fourth neither
    assert served.arrival_s.tolist() == [0, 4.5, 5, 6]
    assert served.log.scheduled_s == [0, 4.5, 5.5, 6.5]
    assert served.log.finish_s == [3, 5.5, 7.5, 7.5]
    ttft = latency_columns(requests, served)["ttft_s"]
    assert ttft.tolist() == [1, 1, 1.5, 1.5]


def test_driver_turns_come_after_one_that_is_skipped() -> None:
    turns = Turns(after=np.array([-1, 0, 1]), delay_s=np.array([0, 2, 2]))
    served = run(asked((900, 3), (0, 1), (4, 1), arrival_s=(1, 1, 1), turns=turns), pool())
    assert sorted(served.log.skipped) == [0, 1]
    assert served.log.finish_s[2] == 6


def test_driver_final_length_is_prompt_and_output_less_one() -> None:
    # 4 tokens fill the only page; a fifth cached token would need another
    assert run(asked((2, 3)), pool(pages=1)).log.finish_s == [3]
    assert run(asked((2, 4)), pool(pages=1)).log.skipped == {0: NEVER_FITS}


def test_driver_ahead_sees_an_end_one_step_later() -> None:
    served = run(asked((5, 3), (4, 1), (3, 2), arrival_s=(0, 0.5, 10)), pool(), "fcfs-ahead")
    # tokens come as they do without
    assert served.log.first_token_s == [1, 2, 11]
    assert served.log.finish_s == [3, 2, 12]
    assert served.log.generated == [3, 1, 2]
    # the second, then the first, then the third grow by a token after their last
    assert served.steps["decode_tokens"].tolist() == [0, 1, 2, 1, 0, 1, 1]
    assert served.steps["running"].tolist() == [1, 2, 2, 1, 1, 1, 1]
    assert served.steps["finished"].tolist() == [0, 1, 1, 0, 0, 1, 0]
    # 5, then 6 and 4, then 7 and 5, then 8, and 3, 4 and 5 tokens in pages of 4
    assert served.steps["used_pages"].tolist() == [2, 3, 4, 2, 1, 1, 2]


def test_driver_ahead_needs_room_for_a_token_nobody_asked_for() -> None:
    assert run(asked((2, 3)), pool(pages=1), "fcfs").log.finish_s == [3]
    assert run(asked((2, 3)), pool(pages=1), "fcfs-ahead").log.skipped == {0: NEVER_FITS}
    # three pages: both start on one and want another, the one that has ended too
    late_first = run(asked((4, 1), (4, 2)), pool(pages=3), "fcfs-ahead").log
    assert (late_first.preemptions, late_first.finish_s) == ([0, 1], [1, 3])
    late_last = run(asked((4, 2), (4, 1)), pool(pages=3), "fcfs-ahead").log
    assert (late_last.preemptions, late_last.finish_s) == ([0, 0], [2, 1])
    assert run(asked((4, 1), (4, 2)), pool(pages=3)).log.preemptions == [0, 0]


def test_driver_ahead_asks_for_sequences_that_are_one_token_longer() -> None:
    given_: dict[str, Any] = {"allocators": ("host",), "page_sizes": (4,), "model": "", "token_bytes": 64}
    given_ |= {"lengths": "fixed:len=7", "outputs": "fixed:len=2", "count": 3, "pool_slots": 64}
    configs = [ServingConfig(scheduler=name, **given_) for name in ("fcfs", "fcfs-ahead")]
    assert [make_workload(config).longest(config) for config in configs] == [8, 9]


def test_driver_preempts_the_newest_and_computes_again() -> None:
    # four pages: both start on one, grow to two each, and cannot both have a third
    served = run(asked((4, 7), (4, 7)), pool(pages=4))
    assert served.log.preemptions == [0, 1]
    # the second had made 5 tokens, of which 4 were cached behind its prompt of 4
    assert served.log.recomputed == [0, 8]
    assert served.log.finish_s == [7, 9]
    assert served.gaps_s.tolist() == [3]
    assert served.steps["preempted"].tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0]
    # prompt and the 5 tokens made so far
    assert served.steps["prefill_tokens"].tolist() == [8, 0, 0, 0, 0, 0, 0, 9, 0]


def test_driver_preempts_whom_the_scheduler_says() -> None:
    told: list[Sequence[Candidate]] = []

    def oldest(running: Sequence[Candidate]) -> int:
        told.append(running)
        return running[0].request

    own = Scheduler(name="own", about="the oldest goes", victim=oldest)
    served = serve(asked((4, 7), (4, 7)), pool(pages=4), own, NullExecutor(1.0), Limits())
    assert told == [[(0, 4, 7, 0, 0), (1, 4, 7, 0, 0)]]
    assert served.log.preemptions == [1, 0]
    assert served.log.finish_s == [9, 7]
    stranger = replace(own, victim=lambda running: 5)
    with pytest.raises(InvalidCase, match="victim of scheduler 'own' = 5: must be a request that runs"):
        serve(asked((4, 7), (4, 7)), pool(pages=4), stranger, NullExecutor(1.0), Limits())


def test_driver_takes_schedulers_of_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    here = "tests.activities.serving.test_driver"
    points = [
        EntryPoint(name, f"{here}:{what}", schedulers.GROUP)
        for name, what in (
            ("mine", "MINE"),
            ("wrong", "Limits"),
            ("gone", "NOBODY"),
            ("twice", "MINE"),
            ("twice", "OTHER"),
        )
    ]
    monkeypatch.setattr(schedulers, "entry_points", lambda group: points)
    assert scheduler_by_name("mine") is MINE
    assert scheduler_names()[-2:] == ["gone", "twice"]
    for name, words in (
        ("wrong", "must be a Scheduler, is type"),
        ("gone", "cannot be loaded: "),
        ("twice", "two packages bring one: "),
        ("min", "did you mean 'mine'"),
    ):
        with pytest.raises(UsageError, match=words):
            scheduler_by_name(name)


def test_driver_swaps_in_place_of_computing_again() -> None:
    allocator = pool(pages=4, swap=4)
    served = run(asked((4, 7), (4, 7)), allocator, "swap")
    assert served.log.preemptions == [0, 1]
    assert served.log.recomputed == [0, 0]
    assert served.log.finish_s == [7, 10]
    # out after its fifth token at 5, back in the step that ends at 8
    assert served.gaps_s.tolist() == [4]
    assert served.steps["prefill_tokens"].sum() == 8
    assert (allocator.free_pages, allocator.free_swap_pages) == (4, 4)


def test_driver_without_swap_room_computes_again() -> None:
    served = run(asked((4, 7), (4, 7)), pool(pages=4, swap=1), "swap")
    assert served.log.recomputed == [0, 8]
    assert all(served.log.finish_s)


def test_driver_watermark_holds_admission_back() -> None:
    two = asked((8, 2), (8, 2))
    assert run(two, pool(pages=4)).log.scheduled_s == [0, 0]
    assert run(two, pool(pages=4), reserve_pages=1).log.scheduled_s == [0, 2]
    assert run(two, pool(pages=4), reserve_pages=2).log.skipped == {0: NEVER_FITS, 1: NEVER_FITS}


def test_driver_token_budget_and_one_prompt_that_is_longer() -> None:
    served = run(asked((6, 1), (6, 1), (20, 1)), pool(), token_budget=12)
    assert served.steps["prefill_tokens"].tolist() == [12, 20]


def test_driver_chunks_prompts_behind_decodes() -> None:
    served = run(asked((3, 9), (20, 2)), pool(), "sarathi", token_budget=8)
    # 3 and 5 of the second; then 7 beside one decode, and 7, and what is left
    assert served.steps["prefill_tokens"].tolist()[:5] == [8, 7, 7, 1, 0]
    assert (served.steps["decode_tokens"] + served.steps["prefill_tokens"]).max() == 8
    assert served.log.first_token_s == [1, 4]


def test_driver_static_batch_waits_for_its_slowest() -> None:
    served = run(asked((4, 2), (4, 6), (4, 2)), pool(seqs=2), "static")
    assert served.log.finish_s == [2, 6, 8]
    # the first is done after two steps, its page is not given back
    assert served.steps["used_pages"].tolist()[:6] == [2, 4, 4, 4, 4, 5]
    assert served.steps["decode_tokens"].tolist() == [0, 2, 1, 1, 1, 1, 0, 1]


@pytest.mark.parametrize(
    ("scheduler", "allocator", "together"),
    [
        # 64 slots for sequences of at most 32: (13 + 1 output), rounded up to 16, or to blocks
        ("orca-max", "buddy-max", 2),
        ("orca-pow2", "buddy", 4),
        ("orca-oracle", "buddy-oracle", 4),
        ("orca-oracle", "oracle-length", 5),
        ("fcfs", "host", 6),
    ],
)
def test_driver_baselines_reserve(scheduler: str, allocator: str, together: int) -> None:
    served = run(asked(*[(10, 3)] * 6), pool(pages=64, size=1, width=32, name=allocator), scheduler)
    assert served.steps["running"].max() == served.steps["admitted"][0] == together
    assert len([at for at in served.log.finish_s if at]) == 6


def test_driver_forks_share_the_prompt_and_copy_its_last_page() -> None:
    served = run(asked((6, 3), forks=3), pool())
    assert served.copies == 2
    assert served.steps["decode_tokens"].tolist() == [0, 3, 3]
    # one full page shared by three, and a second page each
    assert served.steps["used_pages"].tolist() == [2, 4, 4]
    assert served.samples["saved_pages"].tolist() == [0, 2, 2]


def test_driver_makes_room_for_forks_that_copy() -> None:
    """A fork that has no page is no failure of its allocator: somebody is preempted, as for a token."""
    requests = asked((6, 9), (6, 9), (6, 9), forks=3)
    allocator = pool(pages=10, name="host-reuse")
    served = run(requests, allocator)
    assert [at is not None for at in served.log.finish_s] == [True] * 3
    assert sum(served.log.preemptions) > 0
    # a copy for each further answer, each time that a prompt was done
    assert served.copies >= 6
    assert served.steps["used_pages"].max() <= 10
    assert served.steps["context_tokens"].min() >= 0
    assert allocator.free_pages == 10


def test_driver_prefix_cache_finds_full_pages() -> None:
    requests = with_prefixes(asked((3, 2), (3, 2)), "system:tokens=9", seed=0)
    requests = Requests(
        name="x",
        prompt_tokens=requests.prompt_tokens,
        output_tokens=requests.output_tokens,
        arrival_s=np.array([0.0, 5.0]),
        segments=requests.segments,
    )
    served = run(requests, pool(), prefix_cache=True)
    assert served.log.hit == [0, 8]
    assert served.steps["prefill_tokens"].tolist() == [12, 0, 4, 0]
    assert run(requests, pool()).log.hit == [0, 0]


def test_driver_turns_find_what_was_answered() -> None:
    requests = with_prefixes(asked((8, 9), (7, 2)), "multi-turn:turns=2", seed=0)
    requests = Requests(
        name="x",
        prompt_tokens=requests.prompt_tokens,
        output_tokens=requests.output_tokens,
        arrival_s=np.array([0.0, 50.0]),
        segments=requests.segments,
    )
    # 8 of the first prompt and 8 cached tokens of its answer, the ninth was never cached
    assert run(requests, pool(), prefix_cache=True).log.hit == [0, 16]


def test_driver_free_memory_is_external_only_where_a_request_cannot_have_it() -> None:
    # two of 24 tokens leave 16 of 64 slots free, in which the third, which wants 24, does not fit
    requests = asked((20, 5), (20, 5), (20, 5))
    served = run(requests, pool(pages=64, size=1, name="buddy-oracle"))
    waiting = served.steps["waiting"] > 0
    assert waiting.any()
    assert (~waiting).any()
    external, idle = served.samples["external"], served.samples["idle"]
    assert (external[waiting] > 0).all()
    assert (idle[waiting] == 0).all()
    assert (external[~waiting] == 0).all()
    assert (idle[~waiting] > 0).all()
    # pages fit anywhere: what is free is idle, whoever waits
    paged = run(requests, pool(pages=60, size=1))
    assert (paged.steps["waiting"] > 0).any()
    assert not paged.samples["external"].any()


def test_driver_memory_split_adds_up_and_knows_the_end() -> None:
    served = run(asked((5, 6), (3, 2)), pool(pages=8))
    parts = [served.samples[name] for name in ("tokens", "reserved", "internal", "external", "idle")]
    sums = np.sum(parts, axis=0)
    assert sums.tolist() == [32] * 6
    # 5 of 10 tokens: the page of the fifth has room for 3 more that come; 3 of 4: one more comes
    assert served.samples["reserved"][0] == 4
    assert served.samples["internal"].tolist()[:1] == [0]
    # the ninth token opens the last page: one more slot to come, two never
    assert served.samples["tokens"].tolist()[4] == 9
    assert served.samples["reserved"].tolist()[4] == 1
    assert served.samples["internal"].tolist()[4] == 2


def test_driver_skips_and_counts_what_cannot_be_served() -> None:
    served = run(asked((0, 5), (5, 0), (500, 5), (4, 4)), pool())
    assert set(served.log.skipped) == {0, 1, 2}
    assert served.log.finish_s == [None, None, None, 4]


def test_driver_with_nothing_to_serve_ends() -> None:
    served = run(asked((0, 5)), pool())
    assert served.steps_done == 0
    assert served.steps["clock_s"].size == 0


def test_driver_tells_between_steps_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    allocator, limits = pool(), Limits()
    serve(asked((4, 9)), allocator, SCHEDULERS["fcfs"], NullExecutor(), limits, progress=told.append)
    assert told == [1], "quick ones tell once, at the end"
    told.clear()
    monkeypatch.setattr("pabench.activities.serving.serve.PROGRESS_NS", -1)
    serve(asked((4, 9)), pool(), SCHEDULERS["fcfs"], NullExecutor(), limits, progress=told.append)
    assert told == [*[0] * 8, 1, 1]


def test_driver_refuses_what_the_allocator_lacks() -> None:
    with pytest.raises(Unsupported, match="buddy offers no fork"):
        run(asked((4, 4), forks=2), pool(name="buddy"))
    with pytest.raises(Unsupported, match="buddy offers no swap_in, swap_out"):
        run(asked((4, 4)), pool(name="buddy"), "swap")
    with pytest.raises(Unsupported, match="buddy offers no adopt, commit, lookup"):
        run(asked((4, 4)), pool(name="buddy"), prefix_cache=True)
    with pytest.raises(InvalidCase, match="forks = 9: must be at most 8"):
        run(asked((4, 4), forks=9), pool())
    with pytest.raises(InvalidCase, match="token_budget = 0"):
        Limits(token_budget=0)


PAGED = ["host", "model", "torch-paged"]
COMBINATIONS = [
    *[(scheduler, name) for scheduler in ("fcfs", "fcfs-ahead", "sarathi", "static") for name in PAGED],
    *[("swap", "host"), ("swap", "model")],
    *[("orca-max", "buddy-max"), ("orca-pow2", "buddy"), ("orca-oracle", "buddy-oracle")],
    *[("static", "contiguous"), ("fcfs", "oracle-length"), ("fcfs-ahead", "oracle-length")],
]


@example(  # two that share pages, and swap room for one
    pairs=[(1, 9), (7, 2)],
    pages=9,
    size=3,
    seqs=4,
    kind=("swap", "host"),
    forks=2,
    budget=3,
    reserve=0,
    gap=7.0,
)
@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 12)), min_size=1, max_size=12),
    pages=st.integers(1, 20),
    size=st.sampled_from([1, 3, 4]),
    seqs=st.integers(2, 6),
    kind=st.sampled_from(COMBINATIONS),
    forks=st.sampled_from([1, 1, 2]),
    budget=st.sampled_from([3, 8, 100]),
    reserve=st.sampled_from([0, 0, 2]),
    gap=st.sampled_from([0.0, 0.3, 7.0]),
)
def test_driver_serves_everything_once_and_leaves_nothing_property(
    pairs: list[tuple[int, int]],
    pages: int,
    size: int,
    seqs: int,
    kind: tuple[str, str],
    forks: int,
    budget: int,
    reserve: int,
    gap: float,
) -> None:
    """Every operation is judged against the model, so that a driver that asks nonsense is seen too."""
    scheduler, name = kind
    forks = forks if name in ("host", "model") else 1
    swap = 5 if scheduler == "swap" else 0
    subject = pool(pages, size, seqs, width=20, name=name, swap=swap)
    judged = JudgedAllocator(subject)
    requests = asked(*pairs, arrival_s=tuple(gap * at for at in range(len(pairs))), forks=forks)
    served = run(requests, judged, scheduler, token_budget=budget, reserve_pages=reserve)
    log = served.log.columns()
    done = ~np.isnan(log["finish_s"])
    assert done.sum() + len(served.log.skipped) == len(pairs)
    assert np.array_equal(log["generated"][done], requests.output_tokens[done])
    assert (log["first_token_s"][done] <= log["finish_s"][done]).all()
    assert (log["scheduled_s"][done] >= requests.arrival_s[done]).all()
    assert (np.diff(served.steps["clock_s"]) > 0).all()
    assert subject.free_pages == pages
    assert (subject.lengths() == -1).all()
    assert violation(subject) is None
    if not log["preemptions"].any():
        # each token is computed once
        assert served.steps["prefill_tokens"].sum() == requests.prompt_tokens[done].sum()
        wanted, last = forks * (requests.output_tokens[done] - 1).sum(), served.steps["decode_tokens"].sum()
        assert wanted <= last <= wanted + (forks * done.sum() if SCHEDULERS[scheduler].ahead else 0)
