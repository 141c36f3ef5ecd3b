# SPDX-License-Identifier: Apache-2.0
"""The page of the reproduction: Markdown with its figures beside it."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pabench.activities.serving.reproduce import Reproduction, Table
from pabench.report.charts import charts_missing
from pabench.report.drawing import NoCharts
from pabench.report.serving import Bar, Lines
from pabench.report.serving_charts import lines_svg, split_svg

OPENING = """# The vLLM paper, reproduced

Kwon et al., "Efficient Memory Management for LLM Serving with PagedAttention" (SOSP 2023) says what paging
buys. This page has its memory figures next to those of the allocators that pabench runs, made by one
command:

```
pabench serving --reproduce docs/reproduction.md
```

The pool is the paper's: {slots} slots, OPT-13B on an A100 40 GB, sequences of at most 2,048 tokens. Lengths
are lognormal, clipped as in the paper's benchmark and scaled to its means, since its samples are not public.
Orca's three reservations run over a buddy arena of single slots (`buddy-max`, `buddy`, `buddy-oracle`);
paging is the `host` allocator under FCFS with recompute and a watermark of 1 %. All requests are there at
once, the null executor gives every step the same time, and means are over the time in which the queue is
full. Every figure is counted; none is a time.
"""

PAPER_PARTS = "token states", "reserved", "internal", "external, others"
"""As figure 2 of the paper has them."""


def reproduction_files(found: Reproduction, path: Path) -> dict[Path, str]:
    """Return file to content: the page, and its figures beside it where charts can be drawn."""
    files: dict[Path, str] = {}
    lines = [OPENING.format(slots="15,728")]
    split, batches = f"{path.stem}-split.svg", f"{path.stem}-batch.svg"
    drawn: dict[Path, str] = {}
    if charts_missing() is None:
        bars = tuple(Bar(name=name, shares=shares) for name, shares in found.split.items())
        with contextlib.suppress(NoCharts):
            drawn = {
                path.parent / split: _alone(split_svg(bars, "split", PAPER_PARTS)),
                path.parent / batches: _alone(lines_svg(_batches(found))),
            }
    for table in found.tables:
        lines += _table(table)
        if drawn and table.title.startswith("Figure 2:"):
            lines += [f"![Shares of the pool by server]({split})", ""]
    if drawn:
        lines += ["## Batch by page size", "", f"![Batch by page size]({batches})", ""]
        files |= drawn
    missed = [text for table in found.tables for text, holds in table.accepted if not holds]
    closing = "Every acceptance above is met." if found.met else f"Missed: {'; '.join(missed)}."
    files[path] = "\n".join([*lines, closing]) + "\n"
    return files


def _alone(svg: str) -> str:
    """As a file of its own, which has to say what it is."""
    return svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1) + "\n"


def _table(table: Table) -> list[str]:
    lines = [f"## {table.title}", "", table.intro, ""]
    numbers = ["---"] + ["---:"] * (len(table.header) - 1)
    for row in (table.header, numbers, *table.rows):
        lines.append(f"| {' | '.join(row)} |")
    lines.append("")
    for text, holds in table.accepted:
        lines.append(f"- {'met' if holds else '**missed**'}: {text}")
    return [*lines, ""]


def _batches(found: Reproduction) -> Lines:
    best = {load: max(batch for _, batch in points) for load, points in found.batches.items()}
    drawn = tuple(
        (f"{load}-like", tuple((float(size), 100 * batch / best[load]) for size, batch in points))
        for load, points in found.batches.items()
    )
    return Lines(
        uid="batch",
        title="Batch by page size",
        x_title="page size",
        y_title="% of the best batch",
        word="counted",
        log=True,
        lines=drawn,
        read="",
    )
