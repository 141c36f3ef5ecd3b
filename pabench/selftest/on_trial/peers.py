# SPDX-License-Identifier: Apache-2.0
"""The suites on trial: inputs and tolerances as their projects document them, in code of our own.

Read in November 2026 in the files that ``source`` names.  Heads are fewer than there, and batches of equal
sequences shorter, which takes nothing from a suite: a fault is in all of them.  Its references are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.dtypes import Array, encode
from pabench.problem.problem import Problem
from pabench.problem.tensors import SequenceRows, Tensors, lay_out

Accepts = Callable[[Array, Array, Array, Array], bool]
"""Whether output and LSE pass for the right ones: ``(out, right_out, lse, right_lse)``, float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A suite on trial.

    Attributes:
        title: of the project's suite.
        source: where it was read.
        inputs: in words.
        rule: in words.
        cases: the calls that it makes.
        accepts: its tolerance.
    """

    title: str
    source: str
    inputs: str
    rule: str
    cases: Callable[[], Iterator[Tensors]]
    accepts: Accepts


def normal(case: Case) -> Tensors:
    """Return a case with queries, keys and values from N(0, 1), whatever its family."""
    return _filled(case, lambda rng, shape: rng.standard_normal(shape))


def _filled(case: Case, draw: Callable[[np.random.Generator, tuple[int, ...]], Array]) -> Tensors:
    problem, rng = case.problem, np.random.default_rng(case.seed)
    rows = []
    for n, q_len in zip(case.batch.kv_lens, case.batch.query_lens, strict=True):
        keys = encode(draw(rng, (n, problem.num_kv_heads, problem.head_dim)), problem.storage)
        values = encode(draw(rng, (n, problem.num_kv_heads, problem.value_dim)), problem.storage)
        queries = encode(draw(rng, (q_len, problem.num_qo_heads, problem.head_dim)), problem.storage)
        own = keys[..., : problem.value_dim] if problem.latent else values
        rows.append(SequenceRows(queries=queries, keys=keys, values=own))
    return lay_out(case, rows)


def close(atol: float, rtol: float, *, lse: tuple[float, float] | None = None) -> Accepts:
    """Return the rule of ``allclose``; ``lse`` are the limits of the LSE, where it is looked at."""

    def accepts(out: Array, right: Array, got_lse: Array, right_lse: Array) -> bool:
        fine = bool((np.abs(out - right) <= atol + rtol * np.abs(right)).all())
        if lse is None or not fine:
            return fine
        return _lse_close(got_lse, right_lse, *lse)

    return accepts


def _lse_close(got: Array, right: Array, atol: float, rtol: float) -> bool:
    finite = np.isfinite(right)
    same = (got[~finite] == right[~finite]).all()
    return bool(same and (np.abs(got - right)[finite] <= atol + rtol * np.abs(right[finite])).all())


def either(atol: float, rtol: float) -> Accepts:
    """Return the rule by which an element fails only beyond both limits; the LSE is an output as well."""

    def fine(got: Array, right: Array) -> bool:
        finite = np.isfinite(right)
        if not (got[~finite] == right[~finite]).all():
            return False
        error = np.abs(got - right)[finite]
        return bool(((error <= atol) | (error <= rtol * (np.abs(right[finite]) + 1e-8))).all())

    return lambda out, right, lse, right_lse: fine(out, right) and fine(lse, right_lse)


def _kernelkit(out: Array, right: Array, lse: Array, right_lse: Array) -> bool:
    """Elements by either limit, and the cosine difference of the whole tensor."""
    if not either(8e-4, 2.01 / 128)(out, right, right_lse, right_lse):
        return False
    denominator = float((out * out + right * right).sum())
    cosine = 2 * float((out * right).sum()) / denominator if denominator else 1.0
    return 1 - cosine <= 5e-6 and _lse_close(lse, right_lse, 1e-6, 8.01 / 65536)


def _call(kv_lens: Sequence[int], q_lens: Sequence[int] | None, seed: int, **problem: object) -> Case:
    shape = {"num_qo_heads": 8, "num_kv_heads": 2, "head_dim": 128, "page_size": 16, "dtype": "bfloat16"}
    changed = {name: value for name, value in problem.items() if name not in ("poison", "placement")}
    return Case(
        problem=Problem(**{**shape, **changed}),  # type: ignore[arg-type]
        batch=Batch(kv_lens=tuple(kv_lens), q_lens=None if q_lens is None else tuple(q_lens)),
        placement=str(problem.get("placement", "shuffled")),
        poison=str(problem.get("poison", "zero")),
        spare_pages=1,
        seed=seed,
    )


VLLM_BATCHES: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((32, 40), (1, 1)),
    ((32, 40), (8, 8)),
    ((32, 40, 48, 56), (1, 1, 5, 5)),
    ((128, 256, 512, 1024) * 2, (1,) * 8),
    ((256, 512, 1024, 2048), (16,) * 4),
    ((512, 1024, 2048) * 2, (1, 1, 1, 7, 7, 7)),
    ((2048,) * 4, (1,) * 4),
    ((4096,) * 2, (32,) * 2),
    ((1024, 2048, 4096) * 2, (1, 1, 1, 32, 32, 32)),
    ((1024,), (1,)),
    ((1024,), (64,)),
)


def _vllm() -> Iterator[Tensors]:
    for kv_lens, q_lens in VLLM_BATCHES:
        yield normal(_call(kv_lens, q_lens, 42))


def _fuzzer() -> Iterator[Tensors]:
    rng = np.random.default_rng(0)
    for seed in range(20):
        kv_lens = rng.integers(1, 513, size=int(rng.integers(1, 5)))
        q_lens = [int(rng.integers(1, min(16, n) + 1)) for n in kv_lens]
        page_size = int(rng.choice([8, 16, 32, 64]))
        yield normal(_call([int(n) for n in kv_lens], q_lens, seed, page_size=page_size))


def _bench() -> Iterator[Tensors]:
    rng = np.random.default_rng(0)
    for seed in range(4):
        kv_lens = [int(n) for n in rng.integers(1000, 4097, size=3)]
        yield normal(_call(kv_lens, None, seed, page_size=(1, 16)[seed % 2]))


def _cudnn() -> Iterator[Tensors]:
    for seed in range(6):
        yield normal(
            _call((1024, 1024), (1, 1) if seed % 2 else (64, 64), seed, dtype="float16", placement="identity")
        )


def _flashmla() -> Iterator[Tensors]:
    latent: dict[str, object] = {
        "num_qo_heads": 16,
        "num_kv_heads": 1,
        "head_dim": 576,
        "head_dim_v": 512,
        "latent": True,
    }
    latent |= {"sm_scale": 576**-0.5, "page_size": 64, "poison": "nan"}
    for seed, kv_lens in enumerate(((4096, 4096), (3877, 4095, 0), (16384,))):
        for q_len in (1, 2):
            yield normal(_call(kv_lens, (q_len,) * len(kv_lens), seed, **latent))


def _kernelbench() -> Iterator[Tensors]:
    for seed, kv_lens in enumerate(((1024,) * 4, (2048,) * 2, (4096,) * 2)):
        yield normal(_call(kv_lens, None, seed))
    # the property: equal weights over values of 1, -1 in slots that nobody may read
    case = _call((1000, 37, 2047), None, 9)
    yield _marked(case)


def _marked(case: Case) -> Tensors:
    """Zero queries, 1 in every slot of a token and -1 in all others."""
    found = _filled(case, lambda rng, shape: np.ones(shape))
    one, minus = (encode(np.asarray(number), case.problem.storage) for number in (1.0, -1.0))
    storage = np.where(found.pool.storage == one, one, minus).astype(found.pool.storage.dtype)
    return Tensors(
        case=case,
        q=np.zeros_like(found.q),
        pool=found.pool.with_storage(storage),
        layout=found.layout,
        kv_lens=found.kv_lens,
        qo_indptr=found.qo_indptr,
    )


SUITES: dict[str, Suite] = {
    "vllm": Suite(
        title="vLLM",
        source="vllm-project/vllm: tests/v1/attention/test_attention_backends.py",
        inputs="11 batches, 32 to 4,096 keys, N(0, 1), bfloat16, pages of 16 shuffled",
        rule="allclose 1e-2, 1e-2; no LSE",
        cases=_vllm,
        accepts=close(1e-2, 1e-2),
    ),
    "flashinfer-fuzzer": Suite(
        title="FlashInfer fuzzer",
        source="flashinfer-ai/flashinfer#4015, not merged: tests/experimental/test_paged_attention_fuzzer.py",
        inputs="20 drawn batches of prefill, up to 512 keys, bfloat16; no empty sequences",
        rule="allclose 2e-2, 2e-2; LSE 3e-2",
        cases=_fuzzer,
        accepts=close(2e-2, 2e-2, lse=(3e-2, 3e-2)),
    ),
    "flashinfer-bench": Suite(
        title="FlashInfer-Bench",
        source="flashinfer-ai/flashinfer-bench: bench/config.py, bench/eval_config.yaml",
        inputs="1,000 to 4,096 keys as dumped from servers, N(0, 1), bfloat16, pages of 1 and 16",
        rule="an element fails beyond 1e-2 and 1e-2; LSE likewise",
        cases=_bench,
        accepts=either(1e-2, 1e-2),
    ),
    "cudnn-frontend": Suite(
        title="cuDNN frontend",
        source="NVIDIA/cudnn-frontend: test/python/sdpa",
        inputs="1,024 keys, N(0, 1), float16, page table in order",
        rule="allclose 2e-2, 2e-2",
        cases=_cudnn,
        accepts=close(2e-2, 2e-2),
    ),
    "flashmla": Suite(
        title="FlashMLA",
        source="deepseek-ai/FlashMLA: tests/kernelkit/compare.py, dense decoding",
        inputs="latent cache 576/512, 4,096 and 16,384 keys, an empty sequence, NaN in dead slots",
        rule="8e-4 or 2.01/128 an element; cosine 5e-6 of the tensor; LSE 1e-6 + 8.01/65536",
        cases=_flashmla,
        accepts=_kernelkit,
    ),
    "kernelbench-hard": Suite(
        title="KernelBench-Hard",
        source="kernelbench.com: benchmarks/hard/src/eval/property_stress.py",
        inputs="1,024 to 4,096 keys, N(0, 1); zero queries over slots of 1, dead ones -1",
        rule="allclose 2e-2, 2e-2",
        cases=_kernelbench,
        accepts=close(2e-2, 2e-2),
    ),
}
