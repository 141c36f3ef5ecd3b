# SPDX-License-Identifier: Apache-2.0
"""Sweep cells as heat maps: page size across, length family down, one panel a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pabench.report.palette import STEPS
from pabench.report.source import Line, Source
from pabench.report.words import DASH, digits, number, percent, scaled
from pabench.timing.cold import FLUSH, HOT

ALIKE = 0.01
"""Figures that differ by less are told as the same."""
NAME_ROOM = 20
"""Characters of a length spec that fit beside a chart."""

WORDS = {"failed": "failed", "crashed": "crashed", "unsupported": "n/a", "unchecked": "unchecked"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What a heat map shows.

    Attributes:
        key: field of the cell.
        ramp: name of the colour ramp.
        split: fields that tell one heat map from another.
        speed: whether a cell that was not found right has no figure.
    """

    key: str
    title: str
    ramp: str
    show: Callable[[float | None], str]
    split: tuple[str, ...]
    speed: bool = False


CONFIGURATION = (
    "backend",
    "device",
    "modelled_gpu",
    "heads",
    "head_dim",
    "dtype",
    "kv_layout",
    "interleaved",
    "kv_dtype",
    "q_len",
    "shared_pages",
    "l2",
    "seed",
)
METRICS = (
    # memory figures follow from lengths and page size alone, whatever the backend
    Metric(key="internal_fragmentation", title="Waste", ramp="waste", show=percent, split=("seed",)),
    Metric(
        key="efficiency_gain",
        title="Efficiency gain",
        ramp="gain",
        show=lambda v: DASH if v is None else f"{digits(v)} ×",
        split=("seed",),
    ),
    Metric(
        key="modelled_tokens_per_s",
        title="Modelled decode throughput",
        ramp="tokens",
        show=scaled,
        split=CONFIGURATION,
        speed=True,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatCell:
    """One square: its text, its step on the ramp (None for no value), its exact fraction if there is one."""

    page_size: int
    lengths: str
    text: str
    step: int | None
    exact: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatPanel:
    """One batch size; ``rows`` are (short name of the lengths, full spec, cells by page size)."""

    batch: int
    page_sizes: tuple[int, ...]
    rows: tuple[tuple[str, str, tuple[HeatCell, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Panels that share one colour scale, hence one metric and one provenance.

    Attributes:
        flat: says that the page size makes no difference, where it makes none; empty where it makes one.
    """

    metric: Metric
    subject: str
    provenance: str
    scale: str
    flat: str
    panels: tuple[HeatPanel, ...]


def build_heat_maps(source: Source) -> tuple[HeatMap, ...]:
    """Return the heat maps, metric by metric, in the order of the journal."""
    names = short_names([line.data["lengths"] for line in source.cells])
    maps = []
    for metric in METRICS:
        groups: dict[tuple[Any, ...], list[Line]] = {}
        for line in source.cells:
            groups.setdefault(_group(metric, line, source), []).append(line)
        for key, lines in groups.items():
            if built := _heat_map(metric, key, lines, names, several=len(groups) > 1):
                maps.append(built)
    return tuple(maps)


def short_names(specs: Sequence[str]) -> dict[str, str]:
    """Return a name for each length spec that fits beside a chart; different specs have different names.

    A short spec names itself; a long one is its family with those parameters that tell it from the others of
    its family, and is cut where that is still too long.
    """
    unique = list(dict.fromkeys(specs))
    names: dict[str, str] = {}
    for spec in unique:
        family, _, rest = spec.partition(":")
        siblings = [
            other.partition(":")[2].split(",") for other in unique if other.partition(":")[0] == family
        ]
        own = [part for part in rest.split(",") if not all(part in parts for parts in siblings)]
        # the items of a list mean nothing one by one
        whole = len(spec) <= NAME_ROOM or (family == "list" and len(siblings) > 1)
        name = spec if whole else ":".join([family, *([",".join(own)] if own else [])])
        name = name if len(name) <= NAME_ROOM else name[: NAME_ROOM - 1] + "…"
        taken = sum(other.partition(" (")[0] == name for other in names.values())
        names[spec] = f"{name} ({taken + 1})" if taken else name
    return names


def _group(metric: Metric, line: Line, source: Source) -> tuple[Any, ...]:
    """Group of a line; a line without speed joins the GPU that its run's other lines are modelled for."""
    data = line.data
    if metric.speed and data.get("modelled_gpu") is None:
        data = {**data, "modelled_gpu": source.runs[line.run].record["config"].get("gpu")}
    key = tuple(str(data[field]) if data.get(field) is not None else None for field in metric.split)
    word = (data.get("provenance") or {}).get(metric.key)
    # where the result is not right there is no figure, so its provenance must not open a map of its own
    return (*key, "modelled" if metric.speed and word is None else word)


def _heat_map(
    metric: Metric, key: tuple[Any, ...], lines: Sequence[Line], names: dict[str, str], *, several: bool
) -> HeatMap | None:
    found: dict[tuple[int, str, int], Line] = {}
    for line in lines:
        place = (line.data["batch"], line.data["lengths"], line.data["page_size"])
        # the last line with a figure stands; one without does not hide it
        if place not in found or number(line.data.get(metric.key)) is not None:
            found[place] = line
    values = [v for line in found.values() if (v := number(line.data.get(metric.key))) is not None]
    if not values:
        return None
    step, scale = _scale(values, metric.show)
    panels = []
    for batch in sorted({batch for batch, _, _ in found}):
        sizes = tuple(sorted({size for b, _, size in found if b == batch}))
        specs = [s for s in names if any((batch, s, size) in found for size in sizes)]
        rows = tuple(
            (names[s], s, tuple(_cell(metric, found.get((batch, s, size)), s, size, step) for size in sizes))
            for s in specs
        )
        panels.append(HeatPanel(batch=batch, page_sizes=sizes, rows=rows))
    return HeatMap(
        metric=metric,
        subject=_subject(metric, key, several=several),
        provenance=key[-1] or "unstated",
        scale=scale,
        flat=_flat(metric, found),
        panels=tuple(panels),
    )


def _flat(metric: Metric, found: Mapping[tuple[int, str, int], Line]) -> str:
    """What to say where no load's figure differs by as much as ``ALIKE`` from page size to page size."""
    loads: dict[tuple[int, str], list[float]] = {}
    for (batch, lengths, _), line in found.items():
        value = number(line.data.get(metric.key))
        if value is None or not math.isfinite(value):
            return ""
        loads.setdefault((batch, lengths), []).append(value)
    spread = max((max(values) - min(values)) / (max(values) or 1.0) for values in loads.values())
    if max(map(len, loads.values())) < 2 or spread >= ALIKE:
        return ""
    return f"Page size makes no difference: figures of one row differ by less than {percent(ALIKE)}."


def _cell(
    metric: Metric, line: Line | None, spec: str, page_size: int, step: Callable[[float], int]
) -> HeatCell:
    if line is None:
        return HeatCell(page_size=page_size, lengths=spec, text="not run", step=None, exact="")
    value = number(line.data.get(metric.key))
    if value is None:
        text = WORDS.get(line.state, "no figure")
        return HeatCell(page_size=page_size, lengths=spec, text=text, step=None, exact="")
    exact = (line.data.get("exact") or {}).get(metric.key, "")
    return HeatCell(page_size=page_size, lengths=spec, text=metric.show(value), step=step(value), exact=exact)


def _scale(
    values: Sequence[float], show: Callable[[float | None], str]
) -> tuple[Callable[[float], int], str]:
    """Return value to colour step, and the scale in words; logarithmic when the values span a decade."""
    finite = [v for v in values if math.isfinite(v)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    logarithmic = low > 0 and high / low >= 10
    start, end = (math.log(low), math.log(high)) if logarithmic else (low, high)

    def step(value: float) -> int:
        if not math.isfinite(value) or end <= start:
            return 0
        at = math.log(value) if logarithmic else value
        return max(0, min(STEPS - 1, int((at - start) / (end - start) * STEPS)))

    if end <= start:
        return step, f"every cell is {show(low)}"
    return (
        step,
        f"{show(low)} (palest) to {show(high)} (strongest), {'log' if logarithmic else 'linear'} steps",
    )


def _subject(metric: Metric, key: tuple[Any, ...], *, several: bool) -> str:
    fields = dict(zip(metric.split, key[:-1], strict=True))
    seed = f"seed {fields['seed']}" if several and fields.get("seed") is not None else ""
    if not metric.speed:
        return seed
    heads, dim = fields["heads"], fields["head_dim"]
    layout = f"{fields['kv_layout'] or ''}{' interleaved' if fields['interleaved'] == 'True' else ''}"
    parts = (
        fields["backend"],
        f"{heads} heads of {dim}" if heads and dim else heads,
        fields["dtype"],
        f"cache {fields['kv_dtype']}" if fields["kv_dtype"] else "",
        layout,
        f"{fields['q_len']} queries" if fields["q_len"] else "",
        f"{fields['shared_pages']} pages shared" if fields["shared_pages"] else "",
        fields["l2"] if fields["l2"] in (FLUSH, HOT) else "",
        f"modelled for {fields['modelled_gpu']}" if fields["modelled_gpu"] else "",
        f"checked on {fields['device']}",
        seed,
    )
    return " · ".join(part for part in parts if part)
