# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import json
import math
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pabench.errors import InvalidCase, UsageError
from pabench.problem.batch import Batch
from pabench.problem.case import POISONS, Case, case_from_dict
from pabench.problem.checks import INT32_MAX
from pabench.problem.dtypes import DTYPES
from pabench.problem.families import FAMILIES
from pabench.problem.placement import PLACEMENTS, TABLE_TAILS
from pabench.problem.pool import KV_LAYOUTS
from pabench.problem.problem import Problem
from pabench.problem.profile import NumericsProfile

PROBLEM = Problem(num_qo_heads=6, num_kv_heads=2, head_dim=8, page_size=4)
CASE = Case(problem=PROBLEM, batch=Batch(kv_lens=(5, 0, 9)))

CASES = st.builds(
    Case,
    problem=st.builds(
        lambda kv, group, **rest: Problem(num_kv_heads=kv, num_qo_heads=kv * group, **rest),
        kv=st.integers(1, 8),
        group=st.integers(1, 8),
        head_dim=st.integers(1, 256),
        page_size=st.integers(1, 512),
        dtype=st.sampled_from(sorted(DTYPES)),
        causal=st.booleans(),
        sm_scale=st.none() | st.floats(0.001, 10),
    ),
    batch=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 40)), min_size=1, max_size=6).map(
        lambda pairs: Batch(kv_lens=tuple(k for k, _ in pairs), q_lens=tuple(q for _, q in pairs))
    ),
    kv_layout=st.sampled_from(KV_LAYOUTS),
    interleaved=st.booleans(),
    family=st.sampled_from(sorted(FAMILIES)),
    poison=st.sampled_from(POISONS),
    placement=st.sampled_from(PLACEMENTS),
    tail=st.sampled_from(TABLE_TAILS),
    spare_pages=st.integers(0, 50),
    seed=st.integers(0, 2**64 - 1),
)


@given(CASES)
def test_case_json_round_trip_property(case: Case) -> None:
    again = case_from_dict(json.loads(json.dumps(case.to_dict())))
    assert again == case
    assert again.id == case.id


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"family": "needle"},
        {"poison": "nan"},
        {"placement": "reversed"},
        {"tail": "zero"},
        {"spare_pages": 1},
        {"kv_layout": "HND"},
        {"interleaved": True},
        {"batch": Batch(kv_lens=(5, 0, 10))},
        {"batch": Batch(kv_lens=(5, 0, 9), q_lens=(1, 1, 2))},
        {"problem": replace(PROBLEM, sm_scale=0.5)},
        {"problem": replace(PROBLEM, causal=False)},
    ],
)
def test_case_id_depends_on_every_field(change: dict[str, Any]) -> None:
    assert replace(CASE, **change).id != CASE.id


def test_case_id_is_stable() -> None:
    assert replace(CASE).id == CASE.id
    assert len(CASE.id) == 16
    # saved cases are found by this; a change needs a new schema number
    assert CASE.id == "b1dfd1dbf5c49daf"


def test_case_with_numpy_numbers_is_the_same_case() -> None:
    numbers: dict[str, Any] = {"head_dim": np.int64(8), "page_size": np.int32(4)}
    problem = replace(PROBLEM, **numbers)
    batch = Batch(kv_lens=np.asarray([5, 0, 9]))  # type: ignore[arg-type]
    case = Case(problem=problem, batch=batch, seed=np.uint64(0), spare_pages=np.int8(0))  # type: ignore[arg-type]
    assert case.id == CASE.id


def _corrupt() -> list[tuple[str, Any]]:
    good = CASE.to_dict()
    whole: list[Any] = [None, 3, "case", [], [good], {}]
    values: list[Any] = [None, "x", -1, 1.5, [], {}, [None], ["1"], math.nan, "1"]
    out: list[tuple[str, Any]] = [(repr(bad), bad) for bad in whole]
    for key in good:
        out.append((f"no {key}", {k: v for k, v in good.items() if k != key}))
        for bad in values:
            out.append((f"{key} {bad!r}", {**good, key: bad}))
    for key in good["problem"]:
        short = {k: v for k, v in good["problem"].items() if k != key}
        out.append((f"no problem.{key}", {**good, "problem": short}))
        for bad in values:
            changed = copy.deepcopy(good)
            changed["problem"][key] = bad
            out.append((f"problem.{key} {bad!r}", changed))
    out.append(("extra", {**good, "extra": 1}))
    out.append(("extra in problem", {**good, "problem": {**good["problem"], "extra": 1}}))
    out.append(("problem short", {**good, "problem": {"head_dim": 8}}))
    out.append(("lengths", {**good, "kv_lens": [5, 0]}))
    return out


# what of the above is still a well-formed case
GOOD = {"q_lens None", "problem.sm_scale -1", "problem.sm_scale 1.5", "problem.sm_scale None"}


@pytest.mark.parametrize(("what", "data"), [pytest.param(w, d, id=w) for w, d in _corrupt()])
def test_case_rejects_corrupt_json(what: str, data: Any) -> None:
    if what in GOOD:
        assert isinstance(case_from_dict(data), Case)
        return
    with pytest.raises(UsageError) as caught:
        case_from_dict(data)
    assert "\n" not in str(caught.value)
    assert ":" in str(caught.value) or "unknown" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_qo_heads": 7}, "num_qo_heads = 7: must be a multiple of num_kv_heads = 2"),
        ({"num_qo_heads": 0}, "num_qo_heads = 0: must be at least 1"),
        ({"num_kv_heads": True}, "num_kv_heads = True: must be a whole number, not a boolean"),
        ({"head_dim": 1025}, "head_dim = 1025: must be at most 1024"),
        ({"head_dim": 8.0}, "head_dim = 8.0: must be a whole number"),
        ({"page_size": 0}, "page_size = 0: must be at least 1"),
        ({"page_size": "16"}, "page_size = '16': must be a whole number"),
        ({"dtype": "bf16"}, "unknown dtype 'bf16'; did you mean 'bfloat16'"),
        ({"causal": 1}, "causal = 1: must be true or false"),
        ({"sm_scale": math.nan}, "sm_scale = nan: must be finite"),
        ({"sm_scale": math.inf}, "sm_scale = inf: must be finite"),
        ({"sm_scale": True}, "sm_scale = True: must be a number"),
        ({"sm_scale": "1"}, "sm_scale = '1': must be a number"),
        ({"sm_scale": 1e-300}, "sm_scale = 1e-300: must be 0, or in size between"),
        ({"sm_scale": -1e30}, "sm_scale = -1e+30: must be 0, or in size between"),
    ],
)
def test_problem_rejects(change: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        replace(PROBLEM, **change)
    assert str(caught.value).startswith(text)


def test_problem_derived_figures() -> None:
    assert PROBLEM.group_size == 3
    assert PROBLEM.scale == pytest.approx(8**-0.5)
    assert replace(PROBLEM, sm_scale=0).scale == 0.0
    assert PROBLEM.token_bytes == 2 * 2 * 8 * 4
    assert replace(PROBLEM, dtype="bfloat16").token_bytes == 2 * 2 * 8 * 2


@pytest.mark.parametrize(
    ("kv_lens", "q_lens", "text"),
    [
        ((), None, "kv_lens = (): must name at least one sequence"),
        ((-1,), None, "kv_lens[0] = -1: must be at least 0"),
        ((1, math.nan), None, "kv_lens[1] = nan: must be a whole number"),
        ((2**31,), None, f"kv_lens[0] = 2147483648: must be at most {INT32_MAX}"),
        ((2**30, 2**30), None, f"kv_lens = 2147483648: must sum to at most {INT32_MAX} tokens"),
        (5, None, "kv_lens = 5: must be a list of token counts"),
        ("12", None, "kv_lens[0] = '1': must be a whole number"),
        ((1, 2), (1,), "q_lens = (1,): must have one entry per sequence, 2"),
        ((1,), (-1,), "q_lens[0] = -1: must be at least 0"),
        ((1, 1), (2**30, 2**30), f"q_lens = 2147483648: must sum to at most {INT32_MAX} tokens"),
    ],
)
def test_batch_rejects(kv_lens: Any, q_lens: Any, text: str) -> None:
    with pytest.raises(InvalidCase) as caught:
        Batch(kv_lens=kv_lens, q_lens=q_lens)
    assert str(caught.value) == text


def test_batch_rows_and_sequences() -> None:
    batch = Batch(kv_lens=(5, 6, 7, 8), q_lens=(2, 0, 3, 1))
    assert batch.qo_indptr.tolist() == [0, 2, 2, 5, 6]
    assert batch.qo_indptr.dtype == np.int32
    assert [batch.sequence_of_row(row) for row in range(6)] == [0, 0, 2, 2, 2, 3]
    assert (batch.num_seqs, batch.num_query_tokens, batch.is_decode) == (4, 6, False)
    assert Batch(kv_lens=(5, 0)).is_decode
    assert Batch(kv_lens=(5, 0)).query_lens == (1, 1)


def test_case_of_an_older_file_has_the_new_name_of_its_placement() -> None:
    assert case_from_dict({**CASE.to_dict(), "placement": "vast"}).placement == "huge-pool"


def test_case_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        CASE.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"interleaved": 1}, "interleaved = 1: must be true or false"),
        ({"family": ["needle"]}, "unknown input family"),
        ({"family": "neadle"}, "unknown input family 'neadle'; did you mean 'needle'"),
        ({"kv_layout": "HDN"}, "kv_layout = 'HDN': must be one of NHD, HND"),
        ({"seed": -1}, "seed = -1: must be at least 0"),
        ({"seed": 2**64}, "seed = 18446744073709551616: must be at most"),
    ],
)
def test_case_rejects(change: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        replace(CASE, **change)
    assert str(caught.value).startswith(text)


def test_profile_rejects() -> None:
    assert NumericsProfile().accumulation == "blocked"
    with pytest.raises(UsageError, match="accumulation = 'fast'"):
        NumericsProfile(accumulation="fast")
    with pytest.raises(UsageError, match="unknown dtype 'fp8'"):
        NumericsProfile(p_dtype="fp8")
    with pytest.raises(UsageError, match="tanh_error = -1"):
        NumericsProfile(tanh_error=-1)
