# SPDX-License-Identifier: Apache-2.0
"""What the tensor-core kernels read and multiply, counted exactly, beside the bound of every figure.

``python suites/benchmark/counted_bounds.py`` prints the table and exits with 1 when a bound is missed.
No figure is a time: they are the same on every machine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pabench.cli.text_table import text_table
from pabench.device.checked import CheckedDevice
from pabench.judge.traffic import attention_flops, decode_traffic
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend

PAGE_SIZES = (1, 2, 3, 8, 16, 32, 64, 128, 256)
CACHES: dict[str, dict[str, Any]] = {
    "bfloat16": {},
    "bfloat16, window 100": {"window": 100},
    "e4m3": {"kv_dtype": "e4m3", "k_scale": (0.5,), "v_scale": (2.0, 0.25)},
}
LENGTHS = (700, 0, 300, 33, 1, 64)
PROMPT = 4096
FLOPS = 2 * 16 * 8 * 16
"""Of one mma m16n8k16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedRow:
    """The figures of one decode call.

    Attributes:
        cache: one of ``CACHES``.
        page_size: tokens of a page.
        kv_bytes: asked for from the cache.
        closed_form_bytes: of the keys and values that are seen, each once for its KV head.
        copies: asynchronous copies of the cache, requests of 16 bytes a lane.
        sectors: of 32 bytes that they touch.
        ideal_sectors: the least that as many bytes take.
        bank_conflicts: in shared memory, of the whole kernel.
        table_reads: page-table entries read.
        token_heads: tokens seen times KV heads.
    """

    cache: str
    page_size: int
    kv_bytes: int
    closed_form_bytes: int
    copies: int
    sectors: int
    ideal_sectors: int
    bank_conflicts: int
    table_reads: int
    token_heads: int

    def bounds(self) -> dict[str, bool]:
        """Return each bound in words, and whether it holds."""
        return {
            "KV bytes within 1 %": 100 * abs(self.kv_bytes - self.closed_form_bytes)
            <= self.closed_form_bytes,
            "sectors = ideal": 0 < self.sectors <= self.ideal_sectors,
            "bank conflicts = 0": self.bank_conflicts == 0,
            "table reads <= 1": 0 < self.table_reads <= self.token_heads,
        }

    def cells(self) -> dict[str, Any]:
        """Return the line of the table: a figure under the name of its bound."""
        figures = (
            f"{self.kv_bytes / self.closed_form_bytes:.4f}",
            f"{self.sectors} = {self.ideal_sectors}",
            str(self.bank_conflicts),
            f"{self.table_reads / self.token_heads:.4f}",
        )
        return {
            "cache": self.cache,
            "page size": self.page_size,
            "KV bytes": self.kv_bytes,
            **_marked(figures, self.bounds()),
        }


def counted_rows(
    device: CheckedDevice,
    *,
    head_dim: int = 128,
    kv_lens: Sequence[int] = LENGTHS,
    page_sizes: Sequence[int] = PAGE_SIZES,
    caches: Sequence[str] = tuple(CACHES),
) -> Iterator[CountedRow]:
    """Yield the figures of each cache and page size.

    Args:
        device: one that counts.
        head_dim: elements of one head's vector.
        kv_lens: cached tokens of each sequence.
        page_sizes: tokens of a page.
        caches: names of ``CACHES``.
    """
    backend = RawKernelMmaBackend(device)
    for cache in caches:
        for page_size in page_sizes:
            problem = Problem(
                num_qo_heads=8,
                num_kv_heads=2,
                head_dim=head_dim,
                page_size=page_size,
                dtype="bfloat16",
                **CACHES[cache],
            )
            floor = decode_traffic(problem, kv_lens)
            device.counters.clear()
            backend.run(
                backend.plan(build_tensors(Case(problem=problem, batch=Batch(kv_lens=tuple(kv_lens)))))
            )
            counted = device.counters["paged_decode"]
            copies = counted.of("k", "v")
            yield CountedRow(
                cache=cache,
                page_size=page_size,
                kv_bytes=counted.loaded_bytes("k", "v"),
                closed_form_bytes=floor.kv_bytes,
                copies=sum(row.requests for row in copies),
                sectors=sum(row.sectors for row in copies),
                ideal_sectors=sum(row.ideal_sectors for row in copies),
                bank_conflicts=counted.totals().bank_conflicts,
                table_reads=sum(row.lanes for row in counted.of("block_table")),
                token_heads=floor.tokens * problem.num_kv_heads,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedPrompt:
    """The figures of one causal prompt.

    Attributes:
        head_dim: elements of one head's vector.
        products: mma m16n8k16 of the kernel.
        closed_form: as many of them as the pairs of a row and a key that it sees take.
        bank_conflicts: of the whole kernel.
    """

    head_dim: int
    products: int
    closed_form: float
    bank_conflicts: int

    def bounds(self) -> dict[str, bool]:
        """Return each bound in words, and whether it holds."""
        return {
            "products within 10 %": self.closed_form <= self.products <= 1.1 * self.closed_form,
            "bank conflicts = 0": self.bank_conflicts == 0,
        }

    def cells(self) -> dict[str, Any]:
        """Return the line of the table: a figure under the name of its bound."""
        figures = (f"{self.products / self.closed_form:.4f}", str(self.bank_conflicts))
        return {"head_dim": self.head_dim, "products": self.products, **_marked(figures, self.bounds())}


def counted_prompts(
    device: CheckedDevice, *, length: int = PROMPT, head_dims: Sequence[int] = (16, 64)
) -> Iterator[CountedPrompt]:
    """Yield the figures of one causal prompt of ``length`` tokens for each head dimension."""
    backend = RawKernelMmaBackend(device)
    for head_dim in head_dims:
        problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=head_dim, page_size=16, dtype="bfloat16")
        batch = Batch(kv_lens=(length,), q_lens=(length,))
        device.counters.clear()
        backend.run(backend.plan(build_tensors(Case(problem=problem, batch=batch))))
        totals = device.counters["paged_prefill"].totals()
        yield CountedPrompt(
            head_dim=head_dim,
            products=totals.matrix_products["m16n8k16.bf16"],
            closed_form=attention_flops(problem, batch) / FLOPS,
            bank_conflicts=totals.bank_conflicts,
        )


def _marked(figures: Sequence[str], bounds: Mapping[str, bool]) -> dict[str, str]:
    return {
        name: figure if holds else f"{figure} MISSED"
        for figure, (name, holds) in zip(figures, bounds.items(), strict=True)
    }


def main() -> int:
    """Print both tables; return 1 when a bound is missed."""
    device = CheckedDevice(checks=(), count=True)
    rows, prompts = list(counted_rows(device)), list(counted_prompts(device))
    bounds = [row.bounds() for row in rows] + [row.bounds() for row in prompts]
    missed = [name for found in bounds for name, holds in found.items() if not holds]
    title = (
        f"paged_decode, head_dim 128, 8 query and 2 KV heads, lengths {', '.join(map(str, LENGTHS))}: counted"
    )
    verdict = f"{len(missed)} bounds missed" if missed else "every bound met"
    sys.stdout.write(f"{title}\n{text_table([row.cells() for row in rows])}\n\n")
    title = f"paged_prefill, 2 query heads and 1 KV head, a causal prompt of {PROMPT}: counted"
    sys.stdout.write(f"{title}\n{text_table([row.cells() for row in prompts])}\n{verdict}\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
