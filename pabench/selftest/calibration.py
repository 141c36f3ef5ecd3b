# SPDX-License-Identifier: Apache-2.0
"""The error bound on trial: right kernels of random makes, on random cases, must all pass it.

A failure names a term that the bound lacks.  The largest err/T says how much room there is; it lies near 1
for 16-bit outputs, because the last rounding alone reaches the bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.judge.verdict import Verdict, judge
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.dtypes import DTYPES, E4M3
from pabench.problem.families import FAMILIES
from pabench.problem.formats import FORMATS
from pabench.problem.masks import MASKS, Given
from pabench.problem.problem import CACHE_FEATURES, FEATURES, SCALE_FEATURES
from pabench.selftest.simulated import Make, random_make

KINDS = (*FEATURES, "plain", "all", *CACHE_FEATURES, *SCALE_FEATURES, "masks", "formats")
"""What the cases of a trial have: a feature, nothing beyond plain attention, any of ``FEATURES``, a mask, a
cache of any format."""
DIMS_APART = ((24, 16), (16, 24), (72, 64))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One random case and one random right kernel, judged.

    Attributes:
        ratio: largest err/T.
        failure: case, make and verdict in words, when it did not pass.
    """

    kind: str
    number: int
    dtype: str
    ratio: float
    failure: str | None


def calibrate(*, start: int, stop: int, seed: int = 0) -> Iterator[Trial]:
    """Yield the outcome of trials ``start`` to ``stop`` - 1, the kinds in turn, drawn from ``seed``."""
    for number in range(start, stop):
        kind = KINDS[number % len(KINDS)]
        case, make, verdict = trial(kind, number, seed)
        failure = None if verdict.passed else f"{kind} {number}: {verdict.text}; {make}; {case.to_dict()}"
        dtype, ratio = case.problem.dtype, verdict.max_ratio
        yield Trial(kind=kind, number=number, dtype=dtype, ratio=ratio, failure=failure)


def random_case(kind: str, rng: np.random.Generator, *, longest: int = 200) -> Case:
    """A case of ``kind``: that feature, each at even odds (``all``), some mask, or none (``plain``)."""
    kv_heads, group = int(rng.integers(1, 3)), int(rng.integers(1, 4))
    heads = kv_heads * group

    def has(feature: str) -> bool:
        return kind == feature or (kind == "all" and rng.random() < 0.5)

    def scales() -> tuple[float, ...]:
        return tuple(2.0 ** rng.uniform(-3, 3, int(rng.choice([1, kv_heads]))))

    several = kind in ("non-causal", "all") or rng.random() < 0.3
    kv_lens = [
        int((0, 1, 31, 33, 64, rng.integers(1, 200))[rng.integers(6)]) for _ in range(int(rng.integers(1, 3)))
    ]
    latent, head_dim = kind == "latent-cache", int(rng.choice([8, 32, 40]))
    by_sequence = kind == "sequence-scales"
    form = FORMATS[E4M3.name] if has("fp8-kv") or (kind == "fp8-q" and rng.random() < 0.5) else None
    if kind == "formats":
        form = list(FORMATS.values())[rng.integers(len(FORMATS))]
    if by_sequence:
        with_scale = [row for row in FORMATS.values() if row.tensor_scale]
        form = with_scale[rng.integers(len(with_scale))]
    small_queries = kind == "fp8-q" or (by_sequence and rng.random() < 0.5)
    apart: dict[str, Any] = {}
    if latent or kind == "head-dim-v":
        head_dim, value_dim = DIMS_APART[2 * rng.integers(2) if latent else rng.integers(3)]
        apart = {"head_dim_v": value_dim, "latent": latent}
    if latent:
        kv_heads, heads = 1, int(rng.choice([1, 3, 16]))
    problem = Problem(
        num_qo_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        **apart,
        page_size=int(rng.choice([1, 5, 16])),
        dtype=str(rng.choice(list(DTYPES))),
        causal=not has("non-causal"),
        sm_scale=(0.07 if latent else None, 1.0, -0.25)[rng.integers(3)],
        soft_cap=float(rng.choice([1.0, 15.0, 30.0, 50.0])) if has("soft-cap") else None,
        window=int(rng.choice([1, 2, 31, 32, 33, 300])) if has("window") else None,
        alibi_slopes=tuple(rng.choice([0.0, 1.0, -0.5, 0.7, 0.01], heads)) if has("alibi") else None,
        sinks=tuple(rng.choice([-1e4, -40.0, 0.3, 5.0, 40.0, 200.0], heads)) if has("sinks") else None,
        kv_dtype=form.name if form else None,
        k_scale=scales() if form and form.tensor_scale and not by_sequence else None,
        v_scale=scales() if form and form.tensor_scale and not by_sequence else None,
        q_dtype=E4M3.name if small_queries else None,
        q_scale=scales() if small_queries and not by_sequence else None,
    )
    scaled: dict[str, Any] = {
        "scales": {
            name: (2.0 ** rng.uniform(-3, 3, (len(kv_lens), kv_heads))).tolist()
            for name in "qkv"
            if by_sequence and problem.takes_scale(name)
        }
    }
    gaps: dict[str, Any] = {
        name: (int(rng.choice([0, 3, 8])), int(rng.choice([0, 3, 8])))
        for name in ("page_gaps", *(("row_gaps", "starts") if kind == "kv-strides" else ()))
        if kind in ("page-gaps", "kv-strides")
    }
    q_lens = tuple(int(n) for n in rng.integers(0, 5, len(kv_lens))) if several else None
    batch = Batch(kv_lens=tuple(min(n, longest) for n in kv_lens), q_lens=q_lens)
    return Case(
        problem=problem,
        batch=batch,
        **gaps,
        **scaled,
        masks=_random_mask(problem, batch, rng) if kind == "masks" else (),
        family=str(rng.choice(list(FAMILIES))),
        poison="nan",
        kv_layout=str(rng.choice(["NHD", "HND"])),
        seed=int(rng.integers(2**32)),
    )


class _Random:
    """Makes the choices of a mask's ``draw``."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def whole(self, low: int, high: int) -> int:
        """Return a whole number from ``low`` to ``high``."""
        return int(self._rng.integers(low, high + 1))

    def among(self, options: Sequence[Any]) -> Any:
        """Return one of ``options``."""
        return options[int(self._rng.integers(len(options)))]


def _random_mask(problem: Problem, batch: Batch, rng: np.random.Generator) -> Given:
    """Some mask that goes with any batch."""
    choose = _Random(rng)
    mask = MASKS[choose.among([name for name, mask in MASKS.items() if not mask.rows_in_keys])]
    return ((mask.name, mask.draw(choose, problem, batch)),)


def trial(kind: str, number: int, seed: int = 0) -> tuple[Case, Make, Verdict]:
    """Return a random case of ``kind``, a random right kernel, and the verdict on it."""
    rng = np.random.default_rng([KINDS.index(kind), number, seed])
    case = random_case(kind, rng)
    make = random_make(rng, case.problem.dtype)
    tensors = build_tensors(case)
    with np.errstate(all="ignore"):
        out, lse = make.run(tensors, rng)
    return case, make, judge(tensors, out, lse, make.profile)
