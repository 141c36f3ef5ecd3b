# SPDX-License-Identifier: Apache-2.0
"""The table of masks: every row is drawn, judged by two spellings, its mistakes die and are named."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pabench.checks.case_budget import CASE_BUDGETS
from pabench.checks.questions.masks import mask_question
from pabench.checks.suite import BY_ID
from pabench.device.registry import open_device
from pabench.errors import InvalidCase, UnknownName
from pabench.judge.naive import naive_attention
from pabench.judge.reference import truth
from pabench.judge.verdict import judge
from pabench.problem import Batch, Case, NumericsProfile, Problem, build_tensors, case_from_dict
from pabench.problem.dtypes import decode
from pabench.problem.features import all_features
from pabench.problem.masks import MASKS, Mask
from pabench.problem.tensors import sequences_of
from pabench.problem.visibility import seen_keys, unseen_tokens
from pabench.strategies import cases
from pabench.strategies.masks import mask_batches
from pabench.subjects.backends.base import attend
from pabench.subjects.backends.rawkernel import RawKernelBackend
from tests.support.kill_support import ask
from tests.support.masked_numpy import MaskedNumpy

DEVICE = open_device("emulated")
EXACT = NumericsProfile()
FEW = replace(CASE_BUDGETS["quick"], shrink=False)
MISTAKES = [(mask.name, words) for mask in MASKS.values() for words in mask.mistakes]


def masked(name: str, *, rows: bool = True, **fields: Any) -> st.SearchStrategy[Case]:
    mask = MASKS[name]
    batch = partial(mask_batches, mask=mask, rows=rows)
    features = [feature for feature in ("window", "sinks") if feature not in mask.without]
    return cases(**{"required": [name], "batch": batch, "head_dims": [16], "features": features, **fields})


@pytest.mark.parametrize("name", MASKS)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_masks_two_spellings_agree_and_our_kernel_is_right_property(name: str, data: st.DataObject) -> None:
    case = data.draw(masked(name, dtypes=["float32"], poisons=["nan"]))
    tensors = build_tensors(case)
    found = truth(tensors, EXACT)
    if case.problem.num_qo_heads * case.batch.num_query_tokens * sum(case.batch.kv_lens) < 3000:
        out, lse = naive_attention(tensors)
        np.testing.assert_allclose(found.out, out, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.lse, lse, rtol=1e-9)
    backend = RawKernelBackend(DEVICE)
    output = attend(backend, tensors)
    verdict = judge(tensors, output.out, output.lse, backend.profile)
    assert verdict.passed, verdict.text


@pytest.mark.parametrize("name", MASKS)
@settings(max_examples=15, deadline=None)
@given(st.data())
def test_masks_are_read_back_and_do_what_they_say_property(name: str, data: st.DataObject) -> None:
    mask, case = MASKS[name], data.draw(masked(name, poisons=["nan"], features=[]))
    assert case.features >= {name}
    assert case_from_dict(json.loads(json.dumps(case.to_dict()))) == case
    bare = replace(case, masks=())
    neutral = replace(case, masks=((name, mask.neutral(case.problem, case.batch)),))
    tensors = build_tensors(case)
    for sequence, rows in enumerate(sequences_of(tensors)):
        before, after = seen_keys(bare, sequence), seen_keys(case, sequence)
        np.testing.assert_array_equal(seen_keys(neutral, sequence), before)
        assert mask.widens or not (after & ~before).any()
        # what no row sees is poison, and nothing else is
        dead = unseen_tokens(case, sequence)
        keys = decode(rows.keys, case.problem.kv_storage)
        assert np.isnan(keys[dead]).all()
        assert not np.isnan(keys[~dead]).any()


@pytest.mark.parametrize(("name", "words"), MISTAKES)
def test_masks_mistakes_die_and_are_named(name: str, words: str) -> None:
    mask = MASKS[name]
    record = ask(mask_question(mask), MaskedNumpy({name: mask.mistakes[words]}), DEVICE, case_budget=FEW)
    assert record.outcome is not None
    assert not record.outcome.passed
    assert words in record.outcome.text


@pytest.mark.parametrize("name", MASKS)
def test_masks_right_kernels_pass(name: str) -> None:
    assert BY_ID[f"masked[{name}]"].clauses == (MASKS[name].clause,)
    record = ask(mask_question(MASKS[name]), MaskedNumpy(), DEVICE, case_budget=FEW)
    assert record.outcome is None or record.outcome.passed, record.outcome
    assert record.cases > 10


def test_masks_a_new_one_is_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = Mask(
        name="odd-keys",
        clause="F99",
        about="A row sees every other key.",
        read=lambda value, problem, batch: value,
        sees=lambda seen, rows, value: seen & (rows.key % 2 == value),
        admits=lambda seen, position, key, rows, value: seen and key % 2 == value,
        draw=lambda choose, problem, batch: choose.whole(0, 1),
        neutral=lambda problem, batch: 2,
        mistakes={"the keys between those it should see": lambda seen, rows, value: (
            seen & (rows.key % 2 != value)
        )},
    )  # fmt: skip
    monkeypatch.setitem(MASKS, odd.name, odd)
    assert odd.name in all_features()
    question = mask_question(odd)
    right = ask(question, MaskedNumpy(), DEVICE, case_budget=FEW)
    ours = ask(question, _declaring(odd.name), DEVICE, case_budget=FEW)
    for record in (right, ours):
        assert record.cases > 10
        assert record.outcome is None or record.outcome.passed, record.outcome
    wrong = ask(question, MaskedNumpy({odd.name: next(iter(odd.mistakes.values()))}), DEVICE, case_budget=FEW)
    assert wrong.outcome is not None
    assert next(iter(odd.mistakes)) in wrong.outcome.text
    tensors = build_tensors(
        Case(problem=PLAIN, batch=Batch(kv_lens=(9,), q_lens=(3,)), masks=((odd.name, 1),), poison="nan")
    )
    out, lse = naive_attention(tensors)
    found = truth(tensors, EXACT)
    np.testing.assert_allclose(found.out, out, rtol=1e-12)
    np.testing.assert_allclose(found.lse, lse, rtol=1e-12)


def _declaring(name: str) -> RawKernelBackend:
    backend = RawKernelBackend(DEVICE)
    can = backend.capabilities
    narrow = replace(can, features=frozenset({name, "non-causal"}), dtypes=frozenset({"float32"}))
    object.__setattr__(backend, "capabilities", narrow)
    return backend


PLAIN = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=4)
TWO: dict[str, Any] = {"kv_lens": (9, 5), "q_lens": (3, 2)}
WRONG: dict[str, tuple[Any, str]] = {
    "no object": (3, "masks = 3: must be an object of names and values"),
    "one side": (
        {"two-sided-window": 3},
        "two-sided-window = 3: must be two numbers, for the left and the right",
    ),
    "no window": ({"two-sided-window": [3, 0]}, "two-sided-window[1] = 0: must be at least 1"),
    "no chunk": ({"chunked-attention": 0}, "chunked-attention = 0: must be at least 1"),
    "a flag short": ({"causal-flags": [True]}, "causal-flags = [True]: must have one entry per sequence, 2"),
    "no flag": ({"causal-flags": [True, 1]}, "causal-flags[1] = 1: must be true or false"),
    "no ranks": ({"context-parallel": [0, 0, [9, 5]]}, "context-parallel[0] = 0: must be at least 1"),
    "rank beyond": ({"context-parallel": [2, 2, [9, 5]]}, "context-parallel[1] = 2: must be at most 1"),
    "other lengths": (
        {"context-parallel": [2, 1, [18, 14]]},
        "kv_lens[1] = 5: must be 7: rank 1 of 2 holds so many of 14 tokens",
    ),
    "span of none": ({"image-spans": [[[4, 4]], []]}, "image-spans[0][0] = 4: must be at least 5"),
    "spans that overlap": (
        {"image-spans": [[[1, 5], [4, 6]], []]},
        "image-spans[0][1] = [4, 6]: must not overlap the span before it, which ends at 5",
    ),
    "span past the end": (
        {"image-spans": [[], [[3, 6]]]},
        "image-spans[1][0] = [3, 6]: must end within the 5 tokens of its sequence",
    ),
    "tree with a cycle": (
        {"draft-tree": [[-1, 2, 1], [-1, 0]]},
        "draft-tree[0][1] = 2: must be -1 or a draft before draft 1",
    ),
    "own parent": (
        {"draft-tree": [[-1, 0, 1], [-1, 1]]},
        "draft-tree[1][1] = 1: must be -1 or a draft before draft 1",
    ),
    "tree too small": (
        {"draft-tree": [[-1, 0], [-1, 0]]},
        "draft-tree[0] = [-1, 0]: must have a parent for each of 3 query tokens",
    ),
    "token past the end": (
        {"token-lists": [[0, 8], [5]]},
        "token-lists[1][0] = 5: must be -1 or one of the 5 tokens",
    ),
    "token below -1": ({"token-lists": [[-2], []]}, "token-lists[0][0] = -2: must be at least -1"),
    "token twice": ({"token-lists": [[3, 3], []]}, "token-lists[0][1] = 3: must not be named twice"),
    "page past the end": (
        {"page-lists": [[0, 2], [2]]},
        "page-lists[1][0] = 2: must be -1 or one of the 2 pages",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_masks_refuse_what_contradicts_itself(what: str) -> None:
    given, line = WRONG[what]
    with pytest.raises(InvalidCase) as caught:
        Case(problem=PLAIN, batch=Batch(**TWO), masks=given)
    assert str(caught.value) == line


def test_masks_refuse_drafts_that_are_no_keys_and_what_is_not_defined() -> None:
    with pytest.raises(InvalidCase, match=r"^kv_lens\[0\] = 1: must hold the 2 drafts of the tree$"):
        Case(problem=PLAIN, batch=Batch(kv_lens=(1,), q_lens=(2,)), masks=(("draft-tree", [[-1, 0]]),))
    sliding = replace(PLAIN, window=3)
    with pytest.raises(InvalidCase, match=r"^masks = 'context-parallel': is not defined with window$"):
        Case(problem=sliding, batch=Batch(kv_lens=(9,)), masks=(("context-parallel", [1, 0, [9]]),))
    with pytest.raises(UnknownName, match="did you mean 'draft-tree'"):
        Case(problem=PLAIN, batch=Batch(kv_lens=(9,)), masks=(("draft-trees", []),))
