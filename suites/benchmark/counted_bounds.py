"""What the tensor-core decode kernel reads, counted exactly, beside the bound of every figure.

``python suites/benchmark/counted_bounds.py`` prints the table and exits with 1 when a bound is missed.
No figure is a time: they are the same on every machine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pabench.backends.rawkernel_mma import RawKernelMmaBackend
from pabench.cli.text_table import text_table
from pabench.device.checked import CheckedDevice
from pabench.oracle.traffic import decode_traffic
from pabench.problem import Batch, Case, Problem, build_tensors

PAGE_SIZES = (1, 2, 3, 8, 16, 32, 64, 128, 256)
CACHES: dict[str, dict[str, Any]] = {
    "bfloat16": {},
    "bfloat16, window 100": {"window": 100},
    "e4m3": {"kv_dtype": "e4m3", "k_scale": (0.5,), "v_scale": (2.0, 0.25)},
}
LENGTHS = (700, 0, 300, 33, 1, 64)
MAIN_LOOP = "tiles"
"""Region of the kernel."""


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
        bank_conflicts: of the main loop.
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
        marked = {
            name: figure if holds else f"{figure} MISSED"
            for figure, (name, holds) in zip(figures, self.bounds().items(), strict=True)
        }
        return {"cache": self.cache, "page size": self.page_size, "KV bytes": self.kv_bytes, **marked}


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
                bank_conflicts=counted.totals(region=MAIN_LOOP).bank_conflicts,
                table_reads=sum(row.lanes for row in counted.of("block_table")),
                token_heads=floor.tokens * problem.num_kv_heads,
            )


def main() -> int:
    """Print the table; return 1 when a bound is missed."""
    rows = list(counted_rows(CheckedDevice(checks=(), count=True)))
    missed = [name for row in rows for name, holds in row.bounds().items() if not holds]
    title = (
        f"paged_decode, head_dim 128, 8 query and 2 KV heads, lengths {', '.join(map(str, LENGTHS))}: counted"
    )
    verdict = f"{len(missed)} bounds missed" if missed else "every bound met"
    sys.stdout.write(f"{title}\n{text_table([row.cells() for row in rows])}\n{verdict}\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
