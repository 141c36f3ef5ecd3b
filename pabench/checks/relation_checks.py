# SPDX-License-Identifier: Apache-2.0
"""Metamorphic checks: a backend answers a problem and its variants, and the answers must fit together.

A variant is judged by the truth of the first problem, carried over, within the variant's own bound: so a
mistake that backend and oracle shared for one problem would show in the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pabench.checks import relations
from pabench.checks.attention_checks import find_difference, judge_output
from pabench.checks.outcome import PASSED, Outcome, failed
from pabench.checks.relations import NEW, Build, Related, Variant
from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.judge.reference import Truth, truth
from pabench.problem.case import Case
from pabench.problem.dtypes import decode, encode
from pabench.problem.tensors import build_tensors
from pabench.subjects.backends.base import AttentionOutput, Backend, attend

BATCH_INVARIANT, FIXED_SPLIT = "batch-invariant", "fixed-split"
LATENT = frozenset({"latent-cache"})
"""K and V of one KV head cannot be changed apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A relation as a check of the suite.

    Attributes:
        build: makes the variants; its docstring is what the check asks.
        clauses: of the specification, that it tests.
        exact: the variant's answer must have the bits that follow, not only lie within the bound.
        merges: bits may differ all the same for a backend that declares that it reads shared pages once.
        badge: earned when all bits follow; when they do not, that is told and nothing is wrong.
        operation: what the backend must offer.
        batches: which to draw: ``short``, ``long`` or ``prompts``.
        without: features under which the relation does not hold.
        needs: feature without which there is none.
    """

    build: Build
    clauses: tuple[str, ...]
    exact: bool = False
    merges: bool = False
    badge: str | None = None
    operation: str = "decode"
    batches: str = "short"
    without: frozenset[str] = frozenset()
    needs: str | None = None

    @property
    def about(self) -> str:
        """The relation in one sentence."""
        return (self.build.__doc__ or "").splitlines()[0]

    def __call__(self, case: Case, backend: Backend, device: Device) -> Outcome:
        """Judge one case.

        Raises:
            Unsupported: the backend can run none of the variants, or the case has none.
        """
        related = self.build(build_tensors(case))
        can = backend.capabilities.why_not
        variants = [variant for variant in related.variants if can(variant.tensors.case) is None]
        if not variants:
            raise Unsupported("no variant of this case that the backend can run")
        return self._judge(replace(related, variants=variants), backend)

    def _judge(self, related: Related, backend: Backend) -> Outcome:
        first, reference = related.first, truth(related.first, backend.profile)
        output, worst = None, 0.0
        missing: dict[str, str] = {}
        if self.exact or self.badge is not None:
            output = attend(backend, first)
            outcome = judge_output(first, output, backend, reference=reference)
            if not outcome.passed:
                return outcome
            worst = outcome.max_ratio or 0.0
        for variant in related.variants:
            got = attend(backend, variant.tensors)
            expected = carried_truth(reference, variant, truth(variant.tensors, backend.profile))
            outcome = judge_output(variant.tensors, got, backend, reference=expected)
            if not outcome.passed:
                return replace(outcome, text=f"with {variant.words}: {outcome.text}")
            worst = max(worst, outcome.max_ratio or 0.0)
            if output is None:
                continue
            changed = find_difference(variant.tensors.case, got, carried_output(output, variant, got))
            if changed and self.badge is None and not (self.merges and backend.capabilities.merges_prefixes):
                return failed(f"{variant.words}: this changes {changed}")
            if changed and self.badge is not None:
                missing.setdefault(self.badge, f"{variant.words}: this changes {changed}")
        return replace(PASSED, max_ratio=worst, missing_badges=tuple(missing.items()))


def carried_truth(first: Truth, variant: Variant, own: Truth) -> Truth:
    """Return what ``variant`` must give, by the truth of the first problem and the bound of its own."""
    rows, kept = variant.rows, variant.rows != NEW
    out, lse = own.out.copy(), own.lse.copy()
    moved = first.out[rows[kept]]
    out[kept] = (moved if variant.columns is None else moved[:, :, variant.columns]) * variant.factor
    lse[kept] = first.lse[rows[kept]] + variant.lse_shift
    return replace(own, out=out, lse=lse)


def carried_output(first: AttentionOutput, variant: Variant, got: AttentionOutput) -> AttentionOutput:
    """Return the bits that follow from the output ``first``; where none do, those of ``got``."""
    dtype = variant.tensors.case.problem.storage
    rows, kept = variant.rows, variant.rows != NEW
    out = got.out.copy()
    moved = first.out[rows[kept]]
    if variant.columns is not None:
        moved = moved[:, :, variant.columns]
    if variant.factor != 1.0:
        numbers = decode(moved, dtype) * variant.factor
        # a factor that is a power of two is exact but for numbers that are subnormal on either side
        normal = np.abs(numbers) >= 4.0 * dtype.smallest_normal
        moved = np.where(normal, encode(numbers, dtype), out[kept])
    out[kept] = moved
    if first.lse is None or got.lse is None:
        return AttentionOutput(out=out, lse=None)
    lse = got.lse.copy()
    if not np.any(variant.lse_shift):
        lse[kept] = first.lse[rows[kept]]
    return AttentionOutput(out=out, lse=lse)


RELATIONS: dict[str, Relation] = {
    "batch": Relation(build=relations.batch, clauses=("X1",), badge=BATCH_INVARIANT, batches="long"),
    "page-size": Relation(build=relations.page_size, clauses=("S5",)),
    "value-scale": Relation(build=relations.value_scale, clauses=("X3",), exact=True, without=LATENT),
    "value-columns": Relation(build=relations.value_columns, clauses=("X4",), without=LATENT),
    "head-dims": Relation(build=relations.head_dims, clauses=("X4",), without=LATENT),
    "parted-latents": Relation(
        build=relations.parted_latents, clauses=("S8",), needs="latent-cache", batches="short"
    ),
    "token-order": Relation(
        build=relations.token_order, clauses=("X5",), without=frozenset({"window", "alibi"})
    ),
    "duplicate-keys": Relation(
        build=relations.duplicate_keys, clauses=("X5",), without=frozenset({"window", "alibi", "sinks"})
    ),
    "weightless-keys": Relation(
        build=relations.weightless_keys,
        clauses=("X5",),
        badge=FIXED_SPLIT,
        batches="long",
        without=frozenset({"window", "alibi", "soft-cap", "fp8-kv"}) | LATENT,
    ),
    "copied-heads": Relation(build=relations.copied_heads, clauses=("S4",), without=LATENT),
    "shared-pages": Relation(build=relations.shared_pages, clauses=("X2",), exact=True, merges=True),
    "neutral-features": Relation(
        build=relations.neutral_features,
        clauses=("F6",),
        without=frozenset({"window", "alibi", "sinks", "soft-cap", "non-causal"}),
    ),
    "folded-scales": Relation(build=relations.folded_scales, clauses=("F7",)),
    "logit-shift": Relation(
        build=relations.logit_shift, clauses=("X6",), without=frozenset({"soft-cap", "sinks"})
    ),
    "chunks": Relation(
        build=relations.chunks,
        clauses=("Q5",),
        operation="prefill",
        batches="prompts",
        without=frozenset({"non-causal"}),
    ),
}
"""Relations by the id of their check."""
