# SPDX-License-Identifier: Apache-2.0
"""What a search for what kills a mutant learns on its way."""

from __future__ import annotations

import pytest

from pabench.selftest.experience import Experience
from pabench.selftest.own_subjects import units_of

NORMAL, LONG, APPEND = "decode[normal]", "decode[long]", "append"


def test_experience_leads_with_what_kills_most_a_second() -> None:
    learned, questions = Experience(), (NORMAL, LONG, APPEND)
    # named after the file: before anything is known
    assert learned.order("s", "kv_append.cu", None, questions)[0] == APPEND
    assert learned.order("s", "paged_decode.cu", None, questions) == (
        NORMAL,
        LONG,
        APPEND,
    )
    for question, seconds in ((NORMAL, 4.0), (LONG, 1.0), (APPEND, 1.0)):
        learned.passed("s", question, seconds=seconds, reached=["paged_decode.cu"])
    assert learned.order("s", "paged_decode.cu", None, questions) == (
        LONG,
        NORMAL,
        APPEND,
    )
    for _ in range(40):
        learned.killed("paged_decode.cu", NORMAL)
    assert learned.order("s", "paged_decode.cu", None, questions) == (
        NORMAL,
        LONG,
        APPEND,
    )
    assert learned.order("s", "paged_prefill.cu", None, questions)[0] == LONG


@pytest.mark.parametrize("seconds", [0.0, 0.0004, 1e-300])
def test_experience_ranks_a_test_that_took_no_time(seconds: float) -> None:
    learned, tests = Experience(), ("slow", "fast", "other")
    learned.passed("s", "fast", seconds=seconds, reached=[])
    learned.passed("s", "slow", seconds=4.0, reached=[])
    assert learned.order("s", "a.cu", None, tests) == ("fast", "other", "slow")
    # however short, it does not lead for ever those that kill
    for _ in range(3000):
        learned.killed("a.cu", "other")
    assert learned.order("s", "a.cu", None, tests) == ("other", "fast", "slow")


def test_experience_leaves_out_who_cannot_see_the_fault() -> None:
    learned, questions = Experience(), ("decode[normal]", "append")
    units = frozenset({"kv_append.cu"})
    assert set(learned.order("s", "pab/to_odd.cuh", units, questions)) == {"decode[normal]", "append"}
    learned.passed("s", "decode[normal]", seconds=1.0, reached=["paged_decode.cu"])
    learned.passed("s", "append", seconds=1.0, reached=["paged_decode.cu", "kv_append.cu"])
    assert learned.order("s", "pab/to_odd.cuh", units, questions) == ("append",)
    # other cases may reach it, and a Python file is in all of them
    assert set(learned.order("wider", "pab/to_odd.cuh", units, questions)) == {"decode[normal]", "append"}
    assert set(learned.order("s", "kernels/append.py", None, questions)) == {"decode[normal]", "append"}


def test_experience_units_are_the_files_that_include_a_header() -> None:
    assert units_of("kv_append.cu") == frozenset({"kv_append.cu"})
    assert units_of("pab/to_odd.cuh") == frozenset({"kv_append.cu", "kv_gather.cu"})
    assert units_of("pab/pool_stack.cuh") == frozenset({"page_alloc_pool.cu"})
    assert units_of("subjects/allocators/host.py") is None
