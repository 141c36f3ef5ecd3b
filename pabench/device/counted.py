# SPDX-License-Identifier: Apache-2.0
"""From what the runtime counted in a launch to ``Counters``: code places become lines, memory gets names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pabench.device.counter_rows import (
    BufferCounts,
    LocationCounts,
    MatrixCounts,
    merge_buffers,
    merge_locations,
    merge_products,
)
from pabench.device.counters import SHARED, Counters
from pabench.device.symbols import resolve


def read_counters(told: Mapping[str, Any], *, kernel: str, names: Mapping[int, str]) -> Counters:
    """Return the counters of one launch.

    Args:
        told: the ``counters`` object of the runtime's report.
        kernel: entry point.
        names: what each allocation is called.
    """
    wanted: dict[str, set[int]] = {}
    for row in told["rows"]:
        wanted.setdefault(row["place"]["module"], set()).add(row["place"]["offset"])
    places = {module: resolve(module, offsets) for module, offsets in wanted.items()}
    memory = {**names, -1: SHARED, -2: ""}
    locations = []
    for row in told["rows"]:
        place = places[row["place"]["module"]][row["place"]["offset"]]
        locations.append(
            LocationCounts(
                file=place.file,
                line=place.line,
                region=row["region"],
                event=row["event"],
                memory=memory[row["memory"]],
                requests=row["requests"],
                lanes=row["lanes"],
                nbytes=row["lanes"] * row["access_bytes"],
                sectors=row["sectors"],
                ideal_sectors=row["ideal_sectors"],
                wavefronts=row["wavefronts"],
                ideal_wavefronts=row["ideal_wavefronts"],
                addresses=row["addresses"],
            )
        )
    return Counters(
        kernel=kernel,
        launches=1,
        locations=merge_locations(locations),
        buffers=merge_buffers(
            BufferCounts(
                name=names[row["memory"]], loaded_sectors=row["loaded"], stored_sectors=row["stored"]
            )
            for row in told["touched"]
        ),
        products=merge_products(MatrixCounts(**row) for row in told["products"]),
    )
