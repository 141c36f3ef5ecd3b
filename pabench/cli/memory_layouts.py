# SPDX-License-Identifier: Apache-2.0
"""``pabench memory --layout``: pieces of a page, copies of a transfer, and whether two readings agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from pabench.errors import InvalidCase, UsageError

if TYPE_CHECKING:
    from pabench.problem.kv_layout import KvLayout
    from pabench.problem.models import ModelShape

LAYOUT = click.option(
    "--layout",
    "layouts",
    multiple=True,
    metavar="AXES[/N]",
    help="How the cache is read: layer, block, kv, head, token, dim, the outermost first; N numbers from "
    "page to page where pages are padded. Two or more are compared.",
)


def read_layouts(
    texts: Sequence[str], model: ModelShape, gpus: int, page_size: int, pages: int
) -> dict[str, KvLayout]:
    """Return the readings that options name, of one GPU's cache.

    Raises:
        UsageError: no order of the axes, or pages that do not fit; names the option.
    """
    from pabench.problem.kv_layout import laid_out

    heads, parts = -(-model.num_kv_heads // gpus), 2
    dim = model.head_dim
    if model.latent_dim:
        heads, parts, dim = 1, 1, model.latent_dim
    sizes = {"layer": model.num_layers, "block": max(1, pages), "kv": parts, "head": heads}
    sizes |= {"token": page_size, "dim": dim}
    found = {}
    for text in texts:
        axes, _, padded = text.partition("/")
        if padded and not (padded.isascii() and padded.isdigit()):
            raise UsageError(f"--layout {text!r}: what follows / must be a whole number")
        try:
            found[text] = laid_out(
                [axis.strip() for axis in axes.split(",")],
                block_elements=int(padded) if padded else None,
                **sizes,
            )
        except InvalidCase as wrong:
            raise UsageError(f"--layout {text!r}: {wrong}") from None
    return found


def figures_of_layouts(layouts: dict[str, KvLayout], itemsize: int) -> list[dict[str, Any]]:
    """Return of each reading the pieces of a page, their bytes, and in what it is unlike the first one."""
    from pabench.problem.kv_layout import unlike

    first, rows = next(iter(layouts.values())), []
    for text, layout in layouts.items():
        pieces, elements = layout.pieces()
        neighbours = range(min(8, layout.sizes[1]))
        row: dict[str, Any] = {"layout": text, "pieces": pieces, "piece_bytes": elements * itemsize}
        row |= {"neighbours": len(neighbours), "copies": layout.copies(neighbours)}
        rows.append(row | {"unlike_first": unlike(first, layout)})
    return rows


def words_of_layouts(rows: Sequence[dict[str, Any]], page_size: int) -> Iterator[str]:
    """Yield a line a reading, and then whether they are the same tokens."""
    for row in rows:
        pieces = "one piece" if row["pieces"] == 1 else f"{row['pieces']:,} pieces"
        copies = "one copy" if row["copies"] == 1 else f"{row['copies']:,} copies"
        yield (
            f"{row['layout']}: a page of {page_size} tokens lies in {pieces} of {row['piece_bytes']:,} "
            f"bytes; {row['neighbours']} neighbours move in {copies}"
        )
    for row in rows[1:]:
        found = row["unlike_first"]
        said = f"is not {rows[0]['layout']}: {found}" if found else f"reads the tokens of {rows[0]['layout']}"
        yield f"{row['layout']} {said}"
