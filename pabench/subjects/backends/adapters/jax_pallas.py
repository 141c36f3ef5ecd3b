# SPDX-License-Identifier: Apache-2.0
"""JAX: the Pallas kernel for decode over pages, ``jax.experimental.pallas.ops.gpu.paged_attention``.

Conventions: pages are ``(num_kv_heads, num_pages, page_size, head_dim)``; one query row a sequence; no
softmax scale is applied, so the queries come scaled; every entry of the table has to name a page of the pool,
so the unused ones name page 0; the keys are split 16 ways, so the table is as many pages wide, times a power
of two; scales of an e4m3 cache are given for each slot; no log-sum-exp is returned.

Without a GPU the kernel runs in Pallas' interpreter, which JAX compiles anew for each combination of shapes.
Batch, table and pool are therefore padded to powers of two, with sequences and pages that nobody looks at,
XLA is told not to optimise, and what it compiled is kept among pabench's own compiled kernels.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.device.cache import cache_root
from pabench.errors import EnvironmentRefused
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.layout import pages_needed
from pabench.problem.placement import HIGH_PAGE_BASE
from pabench.problem.problem import Problem
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.adapters.table import JAX
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.validate import check_attention

SPLITS = 16
"""Default of the package, as all other options of the kernel are."""
SMALLEST_TILE = 16
WHOLE_POOL_PAGES = 4096
"""Pools are padded to powers of two up to this, and to multiples of it beyond."""
MAX_INTERPRETED_STEPS = 2**14
"""Steps of the grid in the interpreter, where one follows the other."""
MAX_INTERPRETED_ELEMENTS = {None: 2**28, "e4m3": 2**23}
"""Elements of K that all steps copy in the interpreter, by ``kv_dtype``; it converts each one of e4m3."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PallasPlan:
    """Converted arrays on JAX's device; ``found`` holds the output after ``run``.

    Attributes:
        shape: of the output that the case asks for; the kernel's is padded.
        dtype: storage type of the case in numpy.
    """

    arguments: dict[str, Any]
    soft_cap: float | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    found: list[Any]


class JaxPallasBackend:
    """``paged_attention`` of JAX, interpreted on the CPU or compiled for the GPU."""

    name = "jax-pallas"
    # Weights are rounded to the type of the values, the partial output of a split to that of the queries.
    profile = NumericsProfile(p_dtype="storage", partial_dtype="storage", kv_dtype=None)

    def __init__(self, device: Device) -> None:
        """Import JAX, kept on the CPU unless the device is ``cuda``, and off the GPU's memory.

        Raises:
            Unsupported: JAX or something it needs is absent, too old, or fails to import.
            EnvironmentRefused: the device is ``cuda`` and this JAX finds none.
        """
        self.mode = "native" if device.name == "cuda" else "interpreted"
        # JAX reads these when it is imported and when it first looks for devices
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        if self.mode == "interpreted":
            os.environ["JAX_PLATFORMS"] = "cpu"
        loaded = [peer.load() for peer in JAX]
        self._jax = loaded[-1]["jax"]
        self._kernel = loaded[-1]["jax.experimental.pallas.ops.gpu.paged_attention"].paged_attention
        small = loaded[0]["ml_dtypes"]
        self._types = {"bfloat16": np.dtype(small.bfloat16), "e4m3": np.dtype(small.float8_e4m3fn)}
        self._device = self._place()
        self.capabilities = Capabilities(
            dtypes=frozenset({"float32", "float16", "bfloat16"}),
            lse=False,
            features=frozenset({"soft-cap", "fp8-kv"}),
            rule=_interpreted_rule if self.mode == "interpreted" else _native_rule,
        )

    def plan(self, tensors: Tensors) -> PallasPlan:
        """Scale the queries, reorder and pad the pool, upload.

        Raises:
            InvalidCase: the arrays do not agree with the case, or the table names pages outside the pool.
            Unsupported: the case is outside the declared capabilities.
        """
        check_attention(self.name, self.capabilities, tensors)
        problem = tensors.case.problem
        head_dim = _power_of_two(problem.head_dim, SMALLEST_TILE)
        num_seqs = _power_of_two(len(tensors.kv_lens), 1)
        q = self._numbers(tensors.q, problem.dtype)
        q = (q.astype(np.float64) * problem.scale).astype(q.dtype)
        cache = {
            "k_pages": self._pages(tensors, tensors.pool.k, head_dim),
            "v_pages": self._pages(tensors, tensors.pool.v, head_dim),
        }
        if problem.kv_dtype is not None:
            for kind in "kv":
                cache[f"{kind}_scales_pages"] = _slot_scales(problem, kind, cache["k_pages"].shape)
        arguments = {
            "q": _padded(q, (num_seqs, q.shape[1], head_dim)),
            **cache,
            "block_tables": _table(tensors, num_seqs),
            "lengths": _padded(tensors.kv_lens, (num_seqs,)),
        }
        return PallasPlan(
            arguments={name: self._jax.device_put(array, self._device) for name, array in arguments.items()},
            soft_cap=problem.soft_cap,
            shape=tensors.q.shape,
            dtype=problem.storage.storage,
            found=[],
        )

    def run(self, plan: PallasPlan) -> None:
        """Call the kernel, and wait for it."""
        options = {"interpret": self.mode == "interpreted", "k_splits": SPLITS}
        out = self._kernel(**plan.arguments, attn_logits_soft_cap=plan.soft_cap, **options)
        plan.found[:] = [out.block_until_ready()]

    def fetch(self, plan: PallasPlan) -> AttentionOutput:
        """Return the output without the padding; there is no LSE."""
        found = np.asarray(plan.found[0])[tuple(slice(size) for size in plan.shape)]
        return AttentionOutput(out=np.ascontiguousarray(found).view(plan.dtype).copy(), lse=None)

    def _place(self) -> Any:
        if self.mode == "interpreted":
            self._jax.config.update("jax_disable_most_optimizations", True)
            self._jax.config.update("jax_compilation_cache_dir", str(cache_root() / "jax"))
            self._jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
            return self._jax.devices("cpu")[0]
        try:
            return self._jax.devices("gpu")[0]
        except RuntimeError as error:
            said = str(error).splitlines()[0]
            raise EnvironmentRefused(
                f"backend {self.name!r} on device 'cuda': JAX {self._jax.__version__}: {said}",
                hint="install JAX with CUDA: pip install 'jax[cuda13]'",
            ) from None

    def _numbers(self, array: Array, dtype: str) -> Array:
        """Bits of bfloat16 and e4m3 as numpy's extension types; other types as they are."""
        return array.view(self._types[dtype]) if dtype in self._types else array

    def _pages(self, tensors: Tensors, view: Array, head_dim: int) -> Array:
        """``(num_kv_heads, num_pages, page_size, head_dim)``, pages and dimension padded with zeros."""
        problem = tensors.case.problem
        pages = self._numbers(view, problem.kv_dtype or problem.dtype)
        pages = np.moveaxis(pages, 2 if tensors.pool.kv_layout == "NHD" else 1, 0)
        count = pages.shape[1]
        if count <= WHOLE_POOL_PAGES:
            count = _power_of_two(count, SPLITS)
        else:
            count += -count % WHOLE_POOL_PAGES
        return _padded(pages, (pages.shape[0], count, problem.page_size, head_dim))


def _power_of_two(size: int, least: int) -> int:
    """Return the smallest power of two that is neither below ``size`` nor below ``least``."""
    return max(least, 1 << max(size - 1, 0).bit_length())


def _padded(array: Array, shape: tuple[int, ...]) -> Array:
    """Return a copy of ``array`` with zeros behind each axis up to ``shape``."""
    found: Array = np.zeros(shape, array.dtype)
    found[tuple(slice(size) for size in array.shape)] = array
    return found


def _table(tensors: Tensors, num_seqs: int) -> Array:
    """int32 ``(num_seqs, width)``: the pages in use, and 0 behind them."""
    rows = [tensors.layout.pages(i, kv_len) for i, kv_len in enumerate(tensors.kv_lens.tolist())]
    width = SPLITS * _power_of_two(-(-max(map(len, rows)) // SPLITS), 1)
    table = np.zeros((num_seqs, width), np.int32)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


def _slot_scales(problem: Problem, kind: str, pages: tuple[int, ...]) -> Array:
    """float32 ``(num_kv_heads, num_pages, page_size)``: the scale of the head, for each of its slots."""
    scales = np.asarray(problem.kv_scales(kind), np.float32)
    return np.broadcast_to(scales[:, None, None], pages[:3])


def _scale_rule(case: Case) -> str | None:
    """Scaling rounds queries of 16 bits, which no kernel that takes the scale does: only exact ones."""
    problem = case.problem
    if problem.dtype != "float32" and problem.scale and abs(math.frexp(problem.scale)[0]) != 0.5:
        return f"takes no scale, and {problem.dtype} queries times {problem.scale:.4g} are rounded"
    return None


def _interpreted_rule(case: Case) -> str | None:
    """Each step of the interpreter copies all pages of its head, whichever the table names."""
    problem, kv_lens = case.problem, case.batch.kv_lens
    tiles = -(-problem.group_size // SMALLEST_TILE)
    steps = _power_of_two(len(kv_lens), 1) * problem.num_kv_heads * tiles * SPLITS
    if steps > MAX_INTERPRETED_STEPS:
        return f"interpreted, {steps} steps of the grid, at most {MAX_INTERPRETED_STEPS}"
    pages = sum(pages_needed(n, problem.page_size) for n in kv_lens) + case.spare_pages
    pages += HIGH_PAGE_BASE if case.placement == "high" else 0
    copied = steps * _power_of_two(pages, SPLITS) * problem.page_size * problem.head_dim
    most = MAX_INTERPRETED_ELEMENTS[problem.kv_dtype]
    if copied > most:
        return f"interpreted, {steps} steps copy {copied >> 20} Mi elements of K, at most {most >> 20}"
    return _scale_rule(case)


def _native_rule(case: Case) -> str | None:
    page_size = case.problem.page_size
    if page_size & (page_size - 1):
        return f"compiled by Triton, whose tiles are powers of two, and page_size is {page_size}"
    return _scale_rule(case)
