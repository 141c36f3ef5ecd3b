# SPDX-License-Identifier: Apache-2.0
"""Memory by page size, pooled over loads: what the choice of a page size costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

LOAD = ["lengths", "batch", "seed"]
"""What a load is: the sequences that wait for pages."""


def pooled_memory(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return pooled memory by page size.

    Only loads that every page size has are pooled, so that an unfinished sweep does not compare different
    loads.

    Args:
        lines: one a page size and load, with ``page_size, lengths, batch, seed, num_pages, slots,
            waste_tokens`` and ``efficiency_gain`` (None where it is not known).

    Returns:
        Index ``page_size``, ascending.  ``batches``: loads; ``pages``, ``slots``, ``waste_tokens``: sums;
        ``waste``: wasted slots over all slots; ``gain``: contiguous slots over paged slots, where a load's
        contiguous slots are its gain times its slots; NaN where one gain is not known.
    """
    columns = ["page_size", *LOAD, "num_pages", "slots", "waste_tokens", "efficiency_gain"]
    table = pd.DataFrame([{name: line.get(name) for name in columns} for line in lines], columns=columns)
    table["efficiency_gain"] = pd.to_numeric(table["efficiency_gain"], errors="coerce")
    sizes = table["page_size"].nunique()
    seen = table.groupby(LOAD, dropna=False)["page_size"].transform("nunique")
    common = table[seen == sizes]
    contiguous = common["efficiency_gain"] * common["slots"]
    grouped = common.assign(contiguous=contiguous).groupby("page_size", sort=True)
    found = grouped.agg(
        batches=("slots", "size"),
        pages=("num_pages", "sum"),
        slots=("slots", "sum"),
        waste_tokens=("waste_tokens", "sum"),
    )
    # a sum that skips what is not known would be too small
    found["contiguous"] = grouped["contiguous"].apply(lambda column: column.sum(skipna=False))
    found = found[found["slots"] > 0]
    return found.assign(
        waste=found["waste_tokens"] / found["slots"], gain=found["contiguous"] / found["slots"]
    )
