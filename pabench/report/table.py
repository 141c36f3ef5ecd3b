# SPDX-License-Identifier: Apache-2.0
"""The table of all cells: what is the same everywhere said once, every other figure in its column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from pabench.report.source import Line, Source
from pabench.report.words import BYTES, DASH, TIMES, common_unit, digits, number, percent, scaled, whole

JUDGED = "judged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: its header, its unit, the provenance word of its figures (empty for what was asked for)."""

    label: str
    unit: str
    provenance: str
    numeric: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CellTable:
    """All cells: facts that hold for every cell, columns, rows of (state, texts)."""

    same: tuple[tuple[str, str], ...]
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


Read = Callable[[dict[str, Any]], Any]
Show = Callable[[Any], str]

MODELLED = "modelled for"
ASKED: tuple[tuple[str, Read], ...] = (
    ("lengths", lambda d: d["lengths"]),
    ("batch", lambda d: d["batch"]),
    ("page size", lambda d: d["page_size"]),
    ("model", lambda d: d.get("model")),
    ("backend", lambda d: d["backend"]),
    ("device", lambda d: d["device"]),
    ("heads", lambda d: d.get("heads")),
    ("head dim", lambda d: d.get("head_dim")),
    ("dtype", lambda d: d.get("dtype")),
    ("layout", lambda d: f"{d.get('kv_layout') or DASH}{' interleaved' if d.get('interleaved') else ''}"),
    ("cache", lambda d: d.get("kv_dtype")),
    ("queries", lambda d: d.get("q_len")),
    ("shared pages", lambda d: d.get("shared_pages")),
    ("L2", lambda d: d.get("l2")),
    ("seed", lambda d: d.get("seed")),
    (MODELLED, lambda d: d.get("modelled_gpu")),
)
ALWAYS = ("lengths", "batch", "page size")
COUNTS = (
    ("pages", "num_pages"),
    ("slots", "slots"),
    ("tokens", "tokens"),
    ("wasted slots", "waste_tokens"),
)
RATIOS: tuple[tuple[str, str, Show], ...] = (
    ("waste", "internal_fragmentation", percent),
    ("contiguous waste", "contiguous_fragmentation", percent),
    ("gain", "efficiency_gain", lambda v: DASH if v is None else f"{digits(v)} ×"),
)
SPEEDS: tuple[tuple[str, str, Show], ...] = (
    ("GB/s", "achieved_gbps", digits),
    ("modelled tokens/s", "modelled_tokens_per_s", scaled),
)
SIZES = (("padded table", "block_table_bytes"), ("CSR table", "csr_table_bytes"), ("KV cache", "kv_bytes"))
READ_BYTES = (("KV bytes read", "counted_kv_bytes"), ("KV bytes, closed form", "closed_form_kv_bytes"))
TRAFFIC = (
    ("load sectors", "counted_load_sectors"),
    ("store sectors", "counted_store_sectors"),
    ("distinct sectors", "distinct_sectors"),
    ("shared wavefronts", "wavefronts"),
    ("bank conflicts", "bank_conflicts"),
    ("page-table reads", "page_table_reads"),
)
RUN_TIMES = (
    ("run, modelled from counted traffic", "counted_modelled_ns"),
    ("run, modelled from the closed form", "closed_form_modelled_ns"),
)
EXPECTED = (
    ("floor, expected before", "expected_floor_ns"),
    ("predicted before", "predicted_ns"),
    ("floor by measured ceilings", "floor_ns"),
)
FRACTIONS = (("of read ceiling", "read_fraction"), ("of floor", "floor_fraction"))
SAMPLES = (("plan", "plan_ns"), ("of run, for all layers", "prepare_ns"), ("run", "run_ns"))


def build_table(source: Source) -> CellTable | None:
    """Return the table in the order lengths, batch, configuration, page size; None without cells."""
    if not source.cells:
        return None
    lines = sorted(source.cells, key=_order(source.cells))
    same, columns, texts = [], [], []
    for label, read in ASKED:
        values = [read(line.data) for line in lines]
        if all(value is None for value in values):
            continue
        # a cell without a modelled figure names no GPU, which does not make the others' differ
        given = {str(value) for value in values if value is not None or label != MODELLED}
        if label not in ALWAYS and len(given) == 1:
            same.append((label, given.pop()))
            continue
        counts = all(isinstance(value, int) for value in values)
        columns.append(Column(label=label, unit="", provenance="", numeric=counts))
        texts.append([DASH if value is None else str(value) for value in values])
    columns.append(Column(label="check", unit="", provenance="", numeric=False))
    texts.append([line.state for line in lines])
    for column, shown in _figures(lines):
        columns.append(column)
        texts.append(shown)
    rows = tuple(zip((line.state for line in lines), zip(*texts, strict=True), strict=True))
    return CellTable(same=tuple(same), columns=tuple(columns), rows=rows)


def _order(lines: Sequence[Line]) -> Callable[[Line], tuple[Any, ...]]:
    specs = {spec: place for place, spec in enumerate(dict.fromkeys(line.data["lengths"] for line in lines))}

    def key(line: Line) -> tuple[Any, ...]:
        data = line.data
        settings = tuple(str(read(data)) for label, read in ASKED[3:] if label != MODELLED)
        return specs[data["lengths"]], data["batch"], settings, data["page_size"], line.run, data["id"]

    return key


def _figures(lines: Sequence[Line]) -> list[tuple[Column, list[str]]]:
    ratios = [number((line.data.get("check") or {}).get("max_ratio")) for line in lines]
    columns = [_column("worst", "err/T", JUDGED, [digits(ratio) for ratio in ratios])]
    # what decides first: the rest may lie beyond the edge of the screen
    for label, key, show in RATIOS[:1]:
        columns += _split(lines, label, key, _each(show))
    for label, key, show in SPEEDS:
        columns += _split(lines, label, key, _each(show))
    for label, key in SAMPLES[1:]:
        columns += _split(lines, label, key, _times)
    for label, key, show in RATIOS[1:]:
        columns += _split(lines, label, key, _each(show))
    for label, key in COUNTS:
        columns += _split(lines, label, key, lambda values: ("", [whole(v) for v in values]))
    for label, key in SIZES:
        columns += _split(lines, label, key, _bytes)
    columns += _split(lines, "token·heads run", "run_token_heads", lambda v: ("", [whole(x) for x in v]))
    for label, key in SAMPLES[:1]:
        columns += _split(lines, label, key, _times)
    columns += _split(lines, "run per token·head", "run_ns", _per_head(lines))
    for label, key in EXPECTED:
        columns += _split(lines, label, key, lambda values: _times([_one(v) for v in values]))
    for label, key in FRACTIONS:
        columns += _split(lines, label, key, _each(percent))
    for label, key in READ_BYTES:
        columns += _split(lines, label, key, _bytes)
    for label, key in TRAFFIC:
        columns += _split(lines, label, key, lambda v: ("", [whole(x) for x in v]))
    columns += _split(lines, "sectors per request", "sectors_per_request", _each(digits))
    for label, key in RUN_TIMES:
        columns += _split(lines, label, key, lambda values: _times([_one(v) for v in values]))
    columns += _split(
        lines, "counted traffic bound by", "counted_bound", lambda values: ("", [v or DASH for v in values])
    )
    columns += _split(lines, "modelled time", "modelled_ns", lambda values: _times([_one(v) for v in values]))
    columns += _split(lines, "bound by", "modelled_bound", lambda values: ("", [v or DASH for v in values]))
    return [column for column in columns if any(text != DASH for text in column[1])]


Format = Callable[[list[Any]], tuple[str, list[str]]]


def _split(lines: Sequence[Line], label: str, key: str, form: Format) -> list[tuple[Column, list[str]]]:
    """One column for each provenance class of a figure, so that two classes never share a column."""
    words = [(line.data.get("provenance") or {}).get(key, "unstated") for line in lines]
    made = []
    for word in dict.fromkeys(words):
        values = [line.data.get(key) if own == word else None for line, own in zip(lines, words, strict=True)]
        if any(value not in (None, []) for value in values):
            unit, texts = form(values)
            made.append(_column(label, unit, word, texts))
    return made


def _column(label: str, unit: str, word: str, texts: list[str]) -> tuple[Column, list[str]]:
    return Column(label=label, unit=unit, provenance=word, numeric=True), texts


def _each(show: Show) -> Format:
    return lambda values: ("", [show(number(value)) for value in values])


def _bytes(values: list[Any]) -> tuple[str, list[str]]:
    known = [number(value) for value in values]
    factor, unit = common_unit([v for v in known if v is not None], BYTES)
    if unit == "B":
        return unit, [whole(v) for v in known]
    return unit, [digits(None if v is None else v / factor) for v in known]


def _times(values: list[Any]) -> tuple[str, list[str]]:
    """Median of the samples with their range, in the unit that suits the column."""
    middles = [median(value) if value else None for value in values]
    factor, unit = common_unit([m for m in middles if m is not None], TIMES)
    texts = []
    for value, middle in zip(values, middles, strict=True):
        text = digits(None if middle is None else middle / factor)
        if value and len(value) > 1:
            text += f" [{digits(min(value) / factor)}–{digits(max(value) / factor)}]"
        texts.append(text)
    ranged = any(value and len(value) > 1 for value in values)
    return (f"{unit}, median [range]" if ranged else unit), texts


def _per_head(lines: Sequence[Line]) -> Format:
    def form(values: list[Any]) -> tuple[str, list[str]]:
        units = [number(line.data.get("run_token_heads")) for line in lines]
        shown = [median(v) / n if v and n else None for v, n in zip(values, units, strict=True)]
        return "ns", [digits(v) for v in shown]

    return form


def _one(value: Any) -> list[float]:
    figure = number(value)
    return [] if figure is None else [figure]
