# SPDX-License-Identifier: Apache-2.0
"""A cell: one point of the grid, and all that determines its result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from pabench.judge.traffic import Traffic, batch_traffic
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.identity import content_id
from pabench.problem.memory import MemoryFigures, memory_figures
from pabench.problem.problem import Problem
from pabench.problem.tensors import layout_of
from pabench.run.figures import record_of_flat
from pabench.run.record import Record
from pabench.timing.cold import ROTATE

CELL_SCHEMA = 3
"""Goes up when the way a cell is checked, run or modelled changes, so that old results are not taken over."""

EXACT_FIGURES = ("internal_fragmentation", "contiguous_fragmentation", "efficiency_gain")
COUNTED_FIGURES = (
    "num_pages",
    "slots",
    "tokens",
    "waste_tokens",
    *EXACT_FIGURES,
    "block_table_bytes",
    "csr_table_bytes",
    "kv_bytes",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Backend x device x problem x lengths.

    Attributes:
        backend: backend name.
        device: name of the device it runs on, never ``auto``.
        gpu: name of the GPU that the modelled figures are for.
        problem: heads, head dimension, page size, dtype.
        batch: KV lengths, drawn.
        lengths: text of the length spec that they were drawn from.
        seed: drives the draw and the tensors.
        kv_layout, interleaved: see ``KvPool``.
        q_len: query tokens of each sequence, the last of its tokens; 1 is decode, more prefill.
        shared_pages: the first pages of every sequence, which are those of the first one.
        l2: what is done about the L2 cache, of ``POLICIES``; None on a device that has none.
        replicate: which of several fresh processes is asked, from 1; None where there is one.
    """

    backend: str
    device: str
    gpu: str
    problem: Problem
    batch: Batch
    lengths: str
    seed: int
    kv_layout: str
    interleaved: bool
    q_len: int = 1
    shared_pages: int = 0
    l2: str | None = None
    replicate: int | None = None

    @property
    def id(self) -> str:
        """That of the question, and the replicate behind it where there are several."""
        return self.question if self.replicate is None else f"{self.question}-{self.replicate}"

    @property
    def question(self) -> str:
        """First 16 hex digits of the SHA-256 over everything that determines what is asked."""
        asked = {
            "schema": CELL_SCHEMA,
            "kv_lens": self.batch.kv_lens,
            "gpu": self.gpu,
            "problem": self.problem.to_dict(),
            **self.axes(),
        }
        return content_id(asked)

    @property
    def label(self) -> str:
        """One short line for people, with the axes that differ most often first."""
        parts = (
            f"page {self.problem.page_size}",
            self.lengths,
            *([] if self.q_len == 1 else [f"{self.q_len} queries"]),
            *([] if not self.shared_pages else [f"{self.shared_pages} shared pages"]),
            f"batch {self.batch.num_seqs}",
            self.backend,
            f"{self.problem.num_qo_heads}:{self.problem.num_kv_heads}x{self.problem.head_dim}",
            self.problem.dtype + (f" {self.problem.kv_dtype}" if self.problem.kv_dtype else ""),
            self.kv_layout + ("-strided" if self.interleaved else ""),
            *([] if self.l2 in (None, ROTATE) else [str(self.l2)]),
        )
        return "  ".join(parts) + (f"  process {self.replicate}" if self.replicate is not None else "")

    def axes(self) -> dict[str, Any]:
        """Return the cell's coordinates as they stand in its journal line."""
        return {
            "backend": self.backend,
            "device": self.device,
            "page_size": self.problem.page_size,
            "lengths": self.lengths,
            "batch": self.batch.num_seqs,
            "seed": self.seed,
            "heads": f"{self.problem.num_qo_heads}:{self.problem.num_kv_heads}",
            "head_dim": self.problem.head_dim,
            "dtype": self.problem.dtype,
            "kv_layout": self.kv_layout,
            "interleaved": self.interleaved,
            **({} if self.q_len == 1 else {"q_len": self.q_len}),
            **({} if not self.shared_pages else {"shared_pages": self.shared_pages}),
            **({} if self.problem.kv_dtype is None else {"kv_dtype": self.problem.kv_dtype}),
            **({} if self.l2 is None else {"l2": self.l2}),
        }

    def memory(self) -> MemoryFigures:
        """Return pages, slots, waste and table bytes of the whole batch, exact."""
        return memory_figures(self.batch.kv_lens, self.problem.page_size)

    def counted(self) -> dict[str, Any]:
        """Return the exact figures of the journal line: numbers, and the fractions as texts in ``exact``.

        ``kv_bytes`` is what the allocated pages take in one layer: slots x bytes of a token.
        """
        figures = self.memory()
        shares: dict[str, Fraction] = {name: getattr(figures, name) for name in EXACT_FIGURES}
        return {
            "num_pages": figures.num_pages,
            "slots": figures.slots,
            "tokens": figures.tokens,
            "waste_tokens": figures.waste_tokens,
            **{name: float(share) for name, share in shares.items()},
            "exact": {name: str(share) for name, share in shares.items()},
            "block_table_bytes": figures.block_table_bytes,
            "csr_table_bytes": figures.csr_table_bytes,
            "kv_bytes": figures.slots * self.problem.token_bytes,
        }

    def blank(self, device: str) -> Record:
        """See ``Item``: what is counted is known before anything runs."""
        from pabench.activities.sweep.line import blank_line

        return record_of_flat(blank_line(self))

    def to_dict(self) -> dict[str, Any]:
        """Return the cell as plain JSON values; ``cell_from_dict`` reads them back."""
        return {**asdict(self), "problem": self.problem.to_dict(), "batch": list(self.batch.kv_lens)}

    def traffic(self) -> Traffic:
        """Return the bytes and operations of the whole batch, shared pages once."""
        case = self.case(self.batch.kv_lens)
        return batch_traffic(self.problem, case.batch, layout=layout_of(case) if self.shared_pages else None)

    def case(self, kv_lens: tuple[int, ...], **options: Any) -> Case:
        """Return a case with the cell's shape, layout and seed over ``kv_lens`` tokens.

        A sequence that is shorter has fewer query tokens, and fewer pages to share.
        """
        options = {"problem": self.problem, **options}
        pages = [min(self.shared_pages, (length - 1) // self.problem.page_size) for length in kv_lens]
        forks = [(place, 0, min(pages[0], own)) for place, own in enumerate(pages) if place]
        return Case(
            batch=Batch(
                kv_lens=kv_lens,
                q_lens=None if self.q_len == 1 else tuple(min(self.q_len, length) for length in kv_lens),
            ),
            shared_prefix=tuple(fork for fork in forks if fork[2] > 0),
            kv_layout=self.kv_layout,
            interleaved=self.interleaved,
            seed=self.seed,
            **options,
        )


def cell_from_dict(data: Any) -> Cell:
    """Read ``Cell.to_dict`` back."""
    built = {"problem": Problem(**data["problem"]), "batch": Batch(kv_lens=tuple(data["batch"]))}
    return Cell(**{**data, **built})
