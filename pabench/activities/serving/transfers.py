# SPDX-License-Identifier: Apache-2.0
"""What it takes to move a sequence's cache elsewhere: offload and disaggregated serving live by it.

Pages whose ids follow one another move in one copy where a page lies in one piece.  Where each layer has a
tensor, and K and V a half of it, they move in one copy for each of these.
"""

from __future__ import annotations

from pabench.activities.serving.config import ServingConfig
from pabench.activities.serving.records import Served
from pabench.problem.kv_layout import LAYER_FIRST, PAGE_FIRST, laid_out

LAYOUTS = {"page": PAGE_FIRST, "layer": LAYER_FIRST}
"""By what lies together in them."""
TRANSFERS = ("pages_per_run", *(f"copies_by_{name}" for name in LAYOUTS))


def transfer_figures(config: ServingConfig, served: Served) -> dict[str, float | None]:
    """Return pages in a run of neighbouring ids, and copies that move a sequence, by layout; means.

    None where no sequence was looked at, or nothing is known of the layers.
    """
    sequences, pages, runs = served.moves
    if not runs:
        return dict.fromkeys(TRANSFERS)
    found: dict[str, float | None] = {"pages_per_run": pages / runs}
    for name, order in LAYOUTS.items():
        found[f"copies_by_{name}"] = None
        if config.cache_parts:
            layers, parts = config.cache_parts
            sizes = {"layer": layers, "kv": parts, "block": 2, "head": 1, "token": 2, "dim": 1}
            count, _ = laid_out(order, **sizes).pieces()
            found[f"copies_by_{name}"] = count * runs / sequences
    return found
