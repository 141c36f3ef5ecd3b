# SPDX-License-Identifier: Apache-2.0
"""Metamorphic checks: the truth keeps every relation, and each relation sees a backend that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pabench.checks.questions import relations as suite
from pabench.checks.relation_checks import RELATIONS, carried_truth
from pabench.errors import Unsupported
from pabench.judge.reference import truth
from pabench.problem import Batch, Case, NumericsProfile, Problem, build_tensors
from pabench.problem.dtypes import FLOAT32, encode
from pabench.problem.problem import CACHE_FEATURES, FEATURES
from pabench.problem.tensors import Tensors, lay_out, sequences_of
from pabench.strategies import cases
from pabench.subjects.backends.base import AttentionOutput
from tests.support.stub_backends import Good

EXACT = NumericsProfile()


@settings(
    max_examples=6,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
@pytest.mark.parametrize("name", RELATIONS)
def test_relations_hold_of_the_truth_property(name: str, data: st.DataObject) -> None:
    relation = RELATIONS[name]
    features = sorted(set(FEATURES) - relation.without)
    required = [relation.needs] if relation.needs else []
    drawn = cases(
        families=suite.FAMILIES,
        placements=suite.PLACEMENTS,
        head_dims=[16],
        batch=suite.BATCHES[relation.batches],
        features=features,
        required=required,
        max_head_dim=72,
        dtypes=["float16"],
    )
    related = relation.build(build_tensors(data.draw(drawn)))
    first = truth(related.first, EXACT)
    for variant in related.variants:
        own = truth(variant.tensors, EXACT)
        carried = carried_truth(first, variant, own)
        # a cap of 2^20 is large and not infinite: a logit x becomes x - x^3 / (3 * 2^40)
        off = 1e-6 if "soft cap" in variant.words else 1e-11
        np.testing.assert_allclose(own.out, carried.out, rtol=1e-9, atol=off, err_msg=variant.words)
        np.testing.assert_allclose(own.lse, carried.lse, rtol=1e-9, atol=off, err_msg=variant.words)


@given(cases(dtypes=["float16"], head_dims=[16], placements=suite.PLACEMENTS, features=FEATURES))
@settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_relations_lay_out_undoes_sequences_of_property(case: Case) -> None:
    once = build_tensors(case)
    again = lay_out(case, sequences_of(once))
    assert again.q.tobytes() == once.q.tobytes()
    assert again.pool.storage.tobytes() == once.pool.storage.tobytes()
    assert again.layout.block_table.tobytes() == once.layout.block_table.tobytes()


# --- backends that give the truth, but for one mistake ------------------------------------------------------


class Truthful(Good):
    """Rounds the float64 truth; ``mistake`` changes what it gives."""

    capabilities = replace(
        Good.capabilities,
        features=frozenset((*FEATURES, *CACHE_FEATURES)),
        operations=frozenset({"decode", "speculative", "prefill"}),
    )
    profile = EXACT

    def __init__(self, mistake: Callable[[Tensors, Any, Any], None]) -> None:
        self.mistake = mistake

    def plan(self, tensors: Tensors) -> Any:
        return tensors

    def run(self, plan: Any) -> None:
        return

    def fetch(self, plan: Any) -> Any:
        right = truth(plan, EXACT)
        out, lse = encode(right.out, FLOAT32), right.lse.astype(np.float32)
        self.mistake(plan, out, lse)
        return AttentionOutput(out=out, lse=lse)


def one_ulp(out: Any) -> None:
    out[...] = np.where(out == 0, out, np.nextafter(out, np.float32(np.inf)))


def by_batch(tensors: Tensors, out: Any, lse: Any) -> None:
    if tensors.case.batch.num_seqs == 1:
        out[0] += 1.0


def by_latent(tensors: Tensors, out: Any, lse: Any) -> None:
    if not tensors.case.problem.latent:
        out[0] += 1.0


def by_page_size(tensors: Tensors, out: Any, lse: Any) -> None:
    if tensors.layout.page_size != PROBLEM.page_size:
        out[0] += 1.0


def by_size_of_values(tensors: Tensors, out: Any, lse: Any) -> None:
    if np.abs(tensors.pool.v).max() > 5.0:
        one_ulp(out)


def by_first_element(tensors: Tensors, out: Any, lse: Any) -> None:
    """Sorts the first values of each token: right for one order of the columns only."""
    if tensors.pool.v[tensors.layout.block_table[0, 0], 0, 0, 0] != FIRST_VALUE:
        out[:, :, 0] += 1.0


def by_first_key(tensors: Tensors, out: Any, lse: Any) -> None:
    if tensors.pool.k[tensors.layout.block_table[0, 0], 0, 0, 0] != FIRST_KEY:
        lse += 1.0


def by_count(tensors: Tensors, out: Any, lse: Any) -> None:
    if max(tensors.case.batch.kv_lens) > max(BATCH.kv_lens):
        lse += 1.0


def by_heads(tensors: Tensors, out: Any, lse: Any) -> None:
    if tensors.case.problem.group_size == 1:
        out += 1.0


def by_sharing(tensors: Tensors, out: Any, lse: Any) -> None:
    table = tensors.layout.block_table
    if len(table) > 2 and table[0, 0] == table[2, 0]:
        one_ulp(out)


def by_window(tensors: Tensors, out: Any, lse: Any) -> None:
    if tensors.case.problem.window is not None:
        lse += 1.0


def by_scale(tensors: Tensors, out: Any, lse: Any) -> None:
    if tensors.case.problem.sm_scale is not None:
        lse += 1.0


def by_last_key(tensors: Tensors, out: Any, lse: Any) -> None:
    if tensors.pool.k[tensors.layout.block_table[0, 0], 0, 0, -1] == 8.0:
        lse += 1e-3


def by_rows(tensors: Tensors, out: Any, lse: Any) -> None:
    if tensors.case.batch.is_decode:
        lse += 1.0


PROBLEM = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=4)
BATCH = Batch(kv_lens=(9, 5))
CASE = Case(problem=PROBLEM, batch=BATCH, seed=3)
_given = build_tensors(CASE)
_page = _given.layout.block_table[0, 0]
FIRST_VALUE, FIRST_KEY = _given.pool.v[_page, 0, 0, 0], _given.pool.k[_page, 0, 0, 0]
MISTAKES = {
    "batch": by_batch,
    "page-size": by_page_size,
    "value-scale": by_size_of_values,
    "value-columns": by_first_element,
    "head-dims": by_first_key,
    "token-order": by_first_key,
    "duplicate-keys": by_count,
    "weightless-keys": by_count,
    "copied-heads": by_heads,
    "shared-pages": by_sharing,
    "neutral-features": by_window,
    "folded-scales": by_scale,
    "logit-shift": by_last_key,
    "chunks": by_rows,
    "parted-latents": by_latent,
}


def case_for(name: str) -> Case:
    if name == "parted-latents":
        half = CASE.problem.head_dim // 2
        latent = replace(CASE.problem, latent=True, head_dim_v=half, num_kv_heads=1, sm_scale=0.25)
        return replace(CASE, problem=latent)
    return replace(CASE, batch=Batch(kv_lens=(9, 5), q_lens=(4, 2))) if name == "chunks" else CASE


@pytest.mark.parametrize("name", RELATIONS)
def test_relations_see_a_backend_that_breaks_them(name: str) -> None:
    relation = RELATIONS[name]
    right = relation(case_for(name), Truthful(lambda *_: None), None)  # type: ignore[arg-type]
    assert right.passed
    assert right.missing_badges == ()
    wrong = relation(case_for(name), Truthful(MISTAKES[name]), None)  # type: ignore[arg-type]
    assert not wrong.passed
    words = "this changes the output" if relation.exact else "with "
    assert words in wrong.text


@pytest.mark.parametrize(
    ("name", "badge"), [("batch", "batch-invariant"), ("weightless-keys", "fixed-split")]
)
def test_relations_of_bits_alone_cost_the_badge_and_not_the_check(name: str, badge: str) -> None:
    def shaky(tensors: Tensors, out: Any, lse: Any) -> None:
        if tensors.case.batch != BATCH:
            one_ulp(out)

    outcome = RELATIONS[name](CASE, Truthful(shaky), None)  # type: ignore[arg-type]
    assert outcome.passed
    ((found, why),) = outcome.missing_badges
    assert found == badge
    assert "this changes the output in" in why


def test_relations_without_a_variant_judge_nothing() -> None:
    plain = replace(CASE, problem=replace(PROBLEM, num_kv_heads=4))
    with pytest.raises(Unsupported, match="no variant"):
        RELATIONS["copied-heads"](plain, Truthful(lambda *_: None), None)  # type: ignore[arg-type]
