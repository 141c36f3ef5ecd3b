# SPDX-License-Identifier: Apache-2.0
"""What serving runs show: the split of memory, batch and page use over time, latency, capacity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pabench.report.palette import LINES
from pabench.report.source import Line, Source
from pabench.report.words import DASH, TIMES, common_unit, digits, number, whole

PARTS = (
    ("tokens", "token states"),
    ("reserved", "reserved"),
    ("internal", "internal"),
    ("external", "external fragmentation"),
    ("idle", "idle"),
)
MAX_BARS = 24
"""Bars of the memory chart; the table has every server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One server's memory: shares of the pool in the order of ``PARTS``."""

    name: str
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """A line chart.

    Attributes:
        uid: its name on the page.
        title, x_title, y_title: in words.
        word: provenance of the figures.
        log: whether x is drawn by its logarithm.
        lines: name to points.
        read: how to read it.
    """

    uid: str
    title: str
    x_title: str
    y_title: str
    word: str
    log: bool
    lines: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]
    read: str

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """Each line in words: a few of its points."""
        return tuple(
            (name, ", ".join(f"{digits(y)} at {digits(x)}" for x, y in points[:: max(1, len(points) // 8)]))
            for name, points in self.lines
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingView:
    """The section: bars, line charts, and a table with a row a server."""

    bars: tuple[Bar, ...]
    charts: tuple[Lines, ...]
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]
    notes: tuple[str, ...]


# what decides first: the rest may lie beyond the edge of the screen
COLUMNS: tuple[tuple[str, str, str, float], ...] = (
    ("tokens/s", "output_tokens_per_s", "", 1.0),
    ("TTFT p50", "ttft_s_p50", "s", 1.0),
    ("TTFT p99", "ttft_s_p99", "s", 1.0),
    ("TPOT p50", "tpot_s_p50", "s", 1.0),
    ("ITL p99", "itl_s_p99", "s", 1.0),
    ("goodput", "goodput_per_s", "/s", 1.0),
    ("token states", "tokens_share", "%", 100.0),
    ("preemptions", "preemptions", "", 1.0),
    ("recompute overhead", "recompute_overhead", "%", 100.0),
    ("prefix hits", "hit_rate", "%", 100.0),
    ("served", "served", "", 1.0),
    ("skipped", "skipped", "", 1.0),
    ("mean batch", "mean_batch", "", 1.0),
    ("peak batch", "peak_batch", "", 1.0),
    ("pages moved out", "pages_out", "", 1.0),
    ("moved in", "pages_in", "", 1.0),
    ("pages per run", "pages_per_run", "", 1.0),
    ("copies to move a sequence", "copies_by_page", "", 1.0),
    ("by layer", "copies_by_layer", "", 1.0),
    ("normalised latency", "normalised_latency_s", "s/token", 1.0),
    ("driver and allocator", "sequence_steps_per_host_s", "sequence-steps/s", 1.0),
)


def build_serving(source: Source) -> ServingView | None:
    """Return the section, or None without a server."""
    if not source.servers:
        return None
    lines = [line for line in source.servers if line.data.get("figures")]
    names = _names(lines)
    bars = []
    for name, line in zip(names, lines, strict=True):
        found = line.data["figures"]
        if "idle_share" not in found:
            # runs before the two were told apart had all that nobody holds under one name
            found = {**found, "external_share": 0.0, "idle_share": found.get("external_share")}
        shares = [number(found.get(f"{part}_share")) for part, _ in PARTS]
        known = tuple(share for share in shares if share is not None)
        if len(known) == len(PARTS):
            bars.append(Bar(name=name, shares=known))
    columns, cells = _columns(source.servers)
    rows = [
        (line.state, name, texts)
        for line, name, texts in zip(source.servers, _names(source.servers), cells, strict=True)
    ]
    charts = [chart for chart in (*_over_time(lines, names), *_latency(lines, names)) if chart.lines]
    charts += [chart for chart in (_waste(lines), _best(lines, names)) if chart is not None]
    return ServingView(
        bars=tuple(bars[:MAX_BARS]),
        charts=tuple(charts),
        columns=columns,
        rows=tuple(rows),
        notes=_notes(source.servers),
    )


def _names(lines: Sequence[Line]) -> list[str]:
    """What tells the servers apart, and the page size."""
    keys = [key for key in ("workload", "scheduler") if len({line.data[key] for line in lines}) > 1]
    return [
        " · ".join([*(line.data[key] for key in keys), line.data["allocator"], f"P {line.data['page_size']}"])
        for line in lines
    ]


def _columns(lines: Sequence[Line]) -> tuple[tuple[tuple[str, str], ...], list[tuple[str, ...]]]:
    """Header and word of each column, one for each provenance; and the texts by line."""
    heads, texts = [], []
    for label, key, unit, scale in COLUMNS:
        words = [(line.data.get("provenance") or {}).get(key) for line in lines]
        for word in dict.fromkeys(word for word in words if word):
            values = [
                number((line.data.get("figures") or {}).get(key)) if own == word else None
                for line, own in zip(lines, words, strict=True)
            ]
            if any(value is not None for value in values):
                show = (
                    whole if key in ("served", "skipped", "preemptions", "pages_out", "pages_in") else digits
                )
                shown_unit = "steps" if unit == "s" and word == "counted" else unit
                heads.append((f"{label} ({shown_unit})" if shown_unit else label, word))
                texts.append([DASH if v is None else show(v * scale) for v in values])
    return tuple(heads), list(zip(*texts, strict=True)) if texts else [() for _ in lines]


def _over_time(lines: Sequence[Line], names: Sequence[str]) -> list[Lines]:
    clock = "modelled" if any(_word(line, "span_s") == "modelled" for line in lines) else "counted"
    unit = "time (s)" if clock == "modelled" else "time (steps)"
    made = []
    for uid, key, title, y_title in (
        ("serving-pages", "used_share", "Pages in use over time", "% of the pool"),
        ("serving-batch", "running", "Requests in the batch over time", "requests"),
    ):
        scale = 100.0 if key == "used_share" else 1.0
        drawn = [
            (name, tuple(zip(line.data["series"]["clock_s"], [scale * y for y in values], strict=True)))
            for name, line in zip(names, lines, strict=True)
            if (values := ((line.data.get("series") or {}).get(key) or {}).get("mean"))
        ]
        read = "Means over runs of steps. A flat top is a full pool; what ends early was served sooner."
        made.append(_lines(uid, title, unit, y_title, clock, drawn, read=read))
    return made


def _latency(lines: Sequence[Line], names: Sequence[str]) -> list[Lines]:
    made = []
    for uid, key, title in (
        ("serving-ttft", "ttft_s", "Time to first token"),
        ("serving-tpot", "tpot_s", "Time per output token"),
    ):
        drawn = [
            (name, tuple((100 * at / (len(values) - 1), value) for at, value in enumerate(values)))
            for name, line in zip(names, lines, strict=True)
            if _word(line, "span_s") == "modelled"
            and len(values := (line.data.get("curves") or {}).get(key, [])) > 1
        ]
        read = "Each request is a point of its line: that share of the requests was served at least as fast."
        factor, unit = common_unit([1e9 * y for _, points in drawn for _, y in points], TIMES)
        scaled = [(name, tuple((x, 1e9 * y / factor) for x, y in points)) for name, points in drawn]
        made.append(_lines(uid, title, "% of requests", unit, "modelled", scaled, read=read))
    return made


def _waste(lines: Sequence[Line]) -> Lines | None:
    """Slots held for tokens that never come, over slots held, by page size."""
    groups: dict[str, dict[int, float]] = {}
    for line in lines:
        found = line.data["figures"]
        tokens, reserved, internal = (number(found.get(f"{part}_share")) or 0.0 for part, _ in PARTS[:3])
        if held := tokens + reserved + internal:
            name = f"{line.data['scheduler']} · {line.data['allocator']}"
            groups.setdefault(name, {})[line.data["page_size"]] = 100 * (reserved + internal) / held
    drawn = [(name, tuple(sorted(points.items()))) for name, points in groups.items() if len(points) > 1]
    if not drawn:
        return None
    read = "Slots held without a token in them, over all slots held, averaged over time."
    axes = ("page size", "% of slots held")
    return _lines("serving-waste", "Waste by page size", *axes, "counted", drawn, read=read, log=True)


def _best(lines: Sequence[Line], names: Sequence[str]) -> Lines | None:
    for line in lines:
        page = line.data.get("page_model")
        if isinstance(page, dict) and page.get("curve"):
            points = tuple((float(size), float(value)) for size, value in page["curve"])
            mean = digits(number(page["mean_tokens"]))
            read = (
                f"Tokens a second of a full pool for sequences of {mean} tokens, the mean of this run, by "
                f"the formula of the step time. Best at {page['best']}; from {page['low']} to {page['high']} "
                "it is within 1 %."
            )
            drawn = [("throughput", points)]
            axes = ("page size", "tokens/s")
            return _lines("serving-best", "Best page size", *axes, "modelled", drawn, read=read, log=True)
    return None


def _lines(
    uid: str,
    title: str,
    x_title: str,
    y_title: str,
    word: str,
    drawn: Sequence[tuple[str, Any]],
    *,
    read: str,
    log: bool = False,
) -> Lines:
    if len(drawn) > len(LINES):
        read += f" Not drawn: {', '.join(name for name, _ in drawn[len(LINES) :])}."
    return Lines(
        uid=uid,
        title=title,
        x_title=x_title,
        y_title=y_title,
        word=word,
        log=log,
        lines=tuple(drawn[: len(LINES)]),
        read=read,
    )


def _notes(lines: Sequence[Line]) -> tuple[str, ...]:
    found = [f"Workload: {workload}." for workload in dict.fromkeys(line.data["workload"] for line in lines)]
    for line in lines:
        who = f"{line.data['allocator']} at page size {line.data['page_size']}"
        if line.data.get("reason"):
            found.append(f"{who}: {line.data['status']}: {line.data['reason']}.")
        if checked := line.data.get("checked_steps"):
            found.append(f"{who}: invariants checked after {whole(checked)} steps.")
        if kernel := line.data.get("kernel"):
            found.append(
                f"{who}: {whole(kernel['launches'])} steps were decoded by the kernel, "
                f"{whole(kernel['sequences'])} sequences, worst err/T {digits(number(kernel['max_ratio']))}."
            )
        for one in line.data.get("priorities") or ():
            served, preemptions = f"{whole(one['served'])} of {whole(one['requests'])}", one["preemptions"]
            p50, p99 = (digits(number(one[name])) for name in ("ttft_s_p50", "ttft_s_p99"))
            found.append(
                f"{who}: priority {one['priority']}: {served} served, {whole(preemptions)} preemptions, "
                f"TTFT p50 {p50} s, p99 {p99} s."
            )
        for why, count in (line.data.get("skip_reasons") or {}).items():
            found.append(f"{who}: {whole(count)} requests skipped: {why}.")
    return tuple(found)


def _word(line: Line, key: str) -> str:
    return str((line.data.get("provenance") or {}).get(key))
