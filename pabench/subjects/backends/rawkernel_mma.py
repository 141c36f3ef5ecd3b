# SPDX-License-Identifier: Apache-2.0
"""Our tensor-core kernels as a backend: decode and prefill, and the append of ``rawkernel``."""

from __future__ import annotations

from typing import Any

from pabench.device.base import Device
from pabench.kernels.decode import MAX_HEAD_DIM, plan_decode, why_not_decode
from pabench.kernels.decode_launches import check_alignment
from pabench.kernels.decode_simple import AttentionPlan
from pabench.kernels.fitted import DTYPES
from pabench.kernels.key_lists import key_lists
from pabench.kernels.layers import layer_of
from pabench.kernels.mask_bits import mask_bits
from pabench.kernels.prefill import APART_FEATURES, lies_apart, plan_prefill, why_not_apart
from pabench.kernels.row_formats import TILE_ROWS, takes_rows
from pabench.problem.batch import SPECULATIVE_TOKENS
from pabench.problem.case import Case
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array
from pabench.problem.formats import FORMATS
from pabench.problem.masks import MASKS
from pabench.problem.pool import KvPool
from pabench.problem.problem import FEATURES, Problem
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import DUMMY_LENGTHS, LAYERS, AttentionOutput, Capabilities
from pabench.subjects.backends.rawkernel import TANH_ERROR, RawKernelBackend
from pabench.subjects.backends.validate import check_attention

ROW_FEATURES = tuple(FORMATS[name].feature for name in TILE_ROWS)
"""Caches that the decode kernel takes, and the prefill kernel does not."""


def _why_not(case: Case) -> str | None:
    return why_not_decode(case.problem) or (
        _why_not_rows(case) if takes_rows(case.problem) else why_not_apart(case)
    )


def _why_not_rows(case: Case) -> str | None:
    """Return why the decode kernel, which alone takes rows that hold their scales, does not take a case."""
    problem, cache = case.problem, f"a cache of {case.problem.kv_dtype}"
    if not case.batch.is_speculative:
        return f"no more than {SPECULATIVE_TOKENS} query tokens a sequence over {cache}"
    apart = problem.head_dim_v is not None or any(k != v for k, v in (case.page_gaps, case.row_gaps))
    return f"no keys and values apart in {cache}" if apart else None


class RawKernelMmaBackend:
    """Attention on tensor cores; append as ``rawkernel`` does it.

    Sequences with up to 8 query tokens go to the decode kernel, the others to the prefill kernel; a batch
    with both takes two calls, and each finds its sequences on the device.  With masks beyond causal flag and
    window the decode kernel reads the keys that some row sees, and no others, if no sequence has more query
    tokens.  Where keys and values lie apart all go to the prefill kernel, which alone takes them.  A cache
    whose rows hold their scales goes to the decode kernel, which alone takes that.

    Args:
        device: where to run.
        split_tokens: 0 cuts the work into equal shares; otherwise each sequence is cut after so many tokens,
            a multiple of 64, and its result does not depend on the rest of the batch, bit for bit.
        blocks: blocks of the persistent grid, as of ``plan_decode``; None fills the device.
    """

    name = "rawkernel-mma"
    captures = True
    takes_resident = True
    capabilities = Capabilities(
        huge_pools=True,
        dtypes=frozenset(DTYPES),
        devices=frozenset({"cuda", "emulated", "ptx"}),
        operations=frozenset({"decode", "speculative", "prefill", "append", "replay", LAYERS, DUMMY_LENGTHS}),
        max_head_dim=MAX_HEAD_DIM,
        features=frozenset((*FEATURES, *APART_FEATURES, *MASKS, *ROW_FEATURES)),
        rule=_why_not,
    )
    # weights are an operand of the second product, so they are rounded to the storage type
    profile = NumericsProfile(
        p_dtype="storage", partial_dtype="float32", accumulation="blocked", tanh_error=TANH_ERROR
    )

    def __init__(self, device: Device, *, split_tokens: int = 0, blocks: int | None = None) -> None:
        self._device = device
        self._cut: dict[str, Any] = {
            "split_tokens": whole_number("split_tokens", split_tokens, low=0),
            "blocks": blocks if blocks is None else whole_number("blocks", blocks, low=1, high=2**16),
        }
        self._simple = RawKernelBackend(device)

    def plan(self, tensors: Tensors) -> tuple[AttentionPlan, ...]:
        """Upload the arrays and build the launches: one call or two, which write the same output."""
        check_attention(self.name, self.capabilities, tensors)
        device, batch, arrays = self._device, tensors.case.batch, self._uploaded(tensors)
        problem = tensors.case.problem
        apart, masks = lies_apart(problem, tensors.pool), bool(tensors.case.masks)
        if masks and batch.is_speculative and not apart:
            lists = key_lists(device, tensors.case)
            return (plan_decode(device, problem, **arrays, **self._cut, lists=lists),)
        if masks or apart:
            mask = mask_bits(device, tensors.case) if masks else None
            return (plan_prefill(device, problem, **arrays, mask=mask),)
        long = [length for length in batch.query_lens if length > SPECULATIVE_TOKENS]
        if len(long) == batch.num_seqs:
            return (self._prompts(problem, **arrays),)
        if not long:
            return (plan_decode(device, problem, **arrays, **self._cut),)
        short = plan_decode(device, problem, **arrays, **self._cut, max_query_len=SPECULATIVE_TOKENS)
        rest = self._prompts(
            problem,
            **arrays,
            min_query_len=SPECULATIVE_TOKENS + 1,
            mean_query_len=sum(long) // len(long),
            beside=short,
        )
        return short, rest

    def _prompts(self, problem: Problem, **options: Any) -> AttentionPlan:
        """Plan the call for sequences with many query tokens; options are those of ``plan_prefill``."""
        return plan_prefill(self._device, problem, **options)

    def _maps(self, pool: KvPool) -> tuple[Any, ...]:
        """Return the tensor maps of a cache on the device that calls for prompts take."""
        return ()

    def _uploaded(self, tensors: Tensors) -> dict[str, Any]:
        upload = self._device.to_device
        return {
            "q": upload(tensors.q),
            "pool": tensors.pool.with_storage(upload(tensors.pool.storage)),
            "block_table": upload(tensors.layout.block_table),
            "kv_lens": upload(tensors.kv_lens),
            "qo_indptr": upload(tensors.qo_indptr),
        }

    def layer(self, plan: tuple[AttentionPlan, ...], q: Array, pool: KvPool) -> tuple[AttentionPlan, ...]:
        """Upload another layer's arrays; see ``LayeredBackend``."""
        device = self._device
        held, cache = device.to_device(q), pool.with_storage(device.to_device(pool.storage))
        check_alignment(held, cache)
        maps = self._maps(cache)
        calls: list[AttentionPlan] = []
        for call in plan:
            calls.append(layer_of(device, call, held, cache, beside=calls[0] if calls else None, maps=maps))
        return tuple(calls)

    def prepare(self, plan: tuple[AttentionPlan, ...]) -> None:
        """Queue the launches that serve all layers."""
        for call in plan:
            self._simple.prepare(call)

    def run_layer(self, plan: tuple[AttentionPlan, ...]) -> None:
        """Queue the others."""
        for call in plan:
            self._simple.run_layer(call)

    def run(self, plan: tuple[AttentionPlan, ...]) -> None:
        """Queue all launches."""
        self.prepare(plan)
        self.run_layer(plan)

    def outputs(self, plan: tuple[AttentionPlan, ...]) -> tuple[Any, ...]:
        """Return output and LSE on the device, into which all calls write."""
        return self._simple.outputs(plan[0])

    def fetch(self, plan: tuple[AttentionPlan, ...]) -> AttentionOutput:
        """Wait and copy output and LSE to the host."""
        return self._simple.fetch(plan[0])

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Write tokens into a copy of the cache; see ``Backend.append``."""
        return self._simple.append(pool, dtype, keys, values, slot_mapping)
