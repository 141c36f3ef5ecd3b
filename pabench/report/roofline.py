# SPDX-License-Identifier: Apache-2.0
"""What the model leaves out, and modelled over measured: the one place where two classes of figures meet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from statistics import median
from typing import Any

from pabench.report.source import Line, Source
from pabench.report.words import DASH, TIMES, digits, number
from pabench.timing.gpus import GPUS, Gpu
from pabench.timing.roofline import LEFT_OUT

SAME_CASE = (
    *("backend", "lengths", "batch", "page_size", "seed", "heads", "head_dim", "dtype"),
    *("kv_layout", "interleaved", "kv_dtype", "q_len", "shared_pages", "tokens", "num_pages"),
)
"""What two cells share when they ask for the same: all but the device, and the GPU of the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioRow:
    """One measured cell.

    Attributes:
        cell: what was asked.
        measured_on: the GPU of the measured run.
        measured: median and range.
        modelled_for: the GPU of the model.
        modelled: its time.
        ratio: modelled over measured; or why there is none.
    """

    cell: str
    measured_on: str
    measured: str
    modelled_for: str
    modelled: str
    ratio: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineView:
    """The section: (GPU, its figures, their source), what is left out, and the measured cells."""

    gpus: tuple[tuple[str, str, str], ...]
    left_out: tuple[str, ...]
    rows: tuple[RatioRow, ...]


def build_roofline(source: Source) -> RooflineView | None:
    """Return the section, or None when nothing was modelled."""
    modelled = [line for line in source.cells if _word(line, "modelled_ns") == "modelled"]
    if not modelled:
        return None
    same: dict[tuple[Any, ...], list[Line]] = {}
    for line in modelled:
        same.setdefault(_case(line), []).append(line)
    measured = [line for line in source.cells if _word(line, "run_ns") == "measured"]
    rows = [_row(line, same[_case(line)], source) for line in measured if _case(line) in same]
    names = dict.fromkeys(str(line.data.get("modelled_gpu")) for line in modelled)
    known = [GPUS[name.lower()] for name in names if name.lower() in GPUS]
    return RooflineView(
        gpus=tuple((gpu.title, _figures(gpu), gpu.source) for gpu in known),
        left_out=LEFT_OUT,
        rows=tuple(rows),
    )


def same_gpu(name: str, description: str) -> bool:
    """Return whether a device's description names the GPU ``name`` of the table; an L40 is no L4."""
    if name.lower() not in GPUS:
        return False
    words = re.sub(r"[^a-z0-9]+", " ", description.lower())
    # rtx4090 is written RTX 4090
    wanted = re.sub(r"^(rtx)(?=\d)", r"\1 ?", name.lower())
    return re.search(rf"\b{wanted}\b", words) is not None


def _word(line: Line, key: str) -> str | None:
    value = line.data.get(key)
    return None if value in (None, []) else (line.data.get("provenance") or {}).get(key)


def _case(line: Line) -> tuple[Any, ...]:
    return tuple(line.data.get(key) for key in SAME_CASE)


def _row(line: Line, candidates: list[Line], source: Source) -> RatioRow:
    device = source.runs[line.run].record["provenance"].get("device")
    description = str((device if isinstance(device, dict) else {}).get("description") or "")
    fitting = [one for one in candidates if same_gpu(str(one.data.get("modelled_gpu")), description)]
    # the cell's own line first: it holds the model of the very kernel that was measured
    model = min(fitting or candidates, key=lambda one: one is not line)
    modelled_ns = number(model.data["modelled_ns"])
    samples = [float(value) for value in line.data["run_ns"]]
    middle = median(samples)
    if not fitting:
        ratio = "no ratio: another GPU was modelled"
    elif not _whole_batch(line):
        ratio = "no ratio: a part of the batch was measured"
    elif modelled_ns is None or not middle > 0:
        ratio = DASH
    else:
        ratio = digits(modelled_ns / middle)
    return RatioRow(
        cell=_title(line),
        measured_on=description or "GPU not stated",
        measured=f"{_time(middle)} [{_time(min(samples))}–{_time(max(samples))}]",
        modelled_for=str(model.data.get("modelled_gpu")),
        modelled=_time(modelled_ns),
        ratio=ratio,
    )


def _whole_batch(line: Line) -> bool:
    """Whether the samples are of all tokens and query heads, which the model is about."""
    done, tokens, heads = (line.data.get(key) for key in ("run_token_heads", "tokens", "heads"))
    if done is None or tokens is None or not re.fullmatch(r"\d+:\d+", str(heads)):
        return False
    return bool(done == tokens * int(str(heads).split(":")[0]) * (line.data.get("q_len") or 1))


def _title(line: Line) -> str:
    data = line.data
    layout = f"{data.get('kv_layout') or DASH}{' interleaved' if data.get('interleaved') else ''}"
    shape = f"{data.get('heads')} x {data.get('head_dim')} {data.get('dtype')} {layout}"
    return (
        f"{data['backend']}: page size {data['page_size']}, {data['lengths']}, batch {data['batch']}, {shape}"
    )


def _time(value_ns: float | None) -> str:
    if value_ns is None:
        return DASH
    factor, unit = next(((f, u) for f, u in TIMES if abs(value_ns) >= f), TIMES[-1])
    return f"{digits(value_ns / factor)} {unit}"


def _figures(gpu: Gpu) -> str:
    l2 = f"{gpu.l2_mib:g} MiB L2" + (f" at {gpu.l2_gbps:,.0f} GB/s" if gpu.l2_gbps else "")
    peaks = f"{gpu.tensor_tflops:g} TFLOPS in tensor cores (16 bit, dense), {gpu.fp32_tflops:g} in float32"
    return f"{gpu.memory_gbps:,.0f} GB/s, {peaks}, {l2}, {gpu.num_sms} SMs"
