# SPDX-License-Identifier: Apache-2.0
"""A page beside the report on which figures are chosen, zoomed and asked for their numbers.

The report runs no script.  This page is one script, vl-convert's bundle of Vega, with the figures of runs;
it loads nothing either, so that it opens without a network.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pabench import __version__
from pabench.errors import EnvironmentRefused, UsageError
from pabench.report.charts import charts_missing
from pabench.report.templates import template
from pabench.run.files import atomic_write_text, json_line
from pabench.run.read import Run, read_runs
from pabench.run.record import Record

MOST_COLOURS = 12
TOLD = ("run", "subject", "label", "status")


def render_interactive(runs: Sequence[Path], out: Path) -> Path:
    """Write the page over ``runs`` to ``out``, and return ``out``.

    Raises:
        UsageError: a folder that is no run directory, or runs without a number to draw.
        EnvironmentRefused: vl-convert is not here, or ``out`` cannot be written.
    """
    read = read_runs(runs)
    chart = explorer(read)
    if why := charts_missing():
        raise EnvironmentRefused(f"--interactive needs charts: {why}", hint="pip install vl-convert-python")
    bundle = str(importlib.import_module("vl_convert").javascript_bundle())
    atomic_write_text(
        out,
        template("interactive.html.j2").render(
            names=[run.path.name for run in read],
            count=len(chart["data"]["values"]),
            version=__version__,
            bundle=Markup(bundle.replace("</script", "<\\/script")),
            chart=Markup(_script_safe(chart)),
        ),
    )
    return out


def explorer(runs: Sequence[Run]) -> dict[str, Any]:
    """Return a Vega-Lite chart of every figure over every axis, with menus for what is shown.

    A figure is named with unit and provenance, so that two classes never share an axis.

    Raises:
        UsageError: no record has a number.
    """
    rows = [_row(run, record) for run in runs for record in run.records]
    values = [row["told"] | row["axes"] | row["figures"] for row in rows if row["figures"]]
    if not values:
        raise UsageError("--interactive: the runs hold no figures to draw")
    figures = sorted({name for row in rows for name in row["figures"]})
    axes = sorted({name for row in rows for name in row["axes"]})
    distinct = {name: {row.get(name) for row in values} for name in (*TOLD, *axes)}
    numbers = {name for name in axes if all(isinstance(row.get(name, 0), int | float) for row in values)}
    across = [name for name in axes if name in numbers and len(distinct[name]) > 1] or ["label"]
    first = "page_size" if "page_size" in across else across[0]
    told = [name for name in ("subject", "lengths", "run", *axes, "status") if name in distinct]
    colours = [
        name for name in dict.fromkeys(told) if 1 < len(distinct[name]) <= MOST_COLOURS and name != first
    ] or ["subject"]
    return {
        "data": {"values": values},
        "params": [
            _menu("figure", figures, _likely(figures)),
            _menu("across", across, first),
            _menu("colour", colours, colours[0]),
            {"name": "shown", "select": {"type": "point", "fields": ["c"]}, "bind": "legend"},
            {"name": "zoom", "select": "interval", "bind": "scales"},
        ],
        "transform": [
            {"calculate": "datum[figure]", "as": "y"},
            {"calculate": "datum[across]", "as": "x"},
            {"calculate": "'' + datum[colour]", "as": "c"},
            {"filter": "isValid(datum.y)"},
        ],
        "title": {"text": {"expr": "figure + ', by ' + across"}, "anchor": "start"},
        "mark": {"type": "point", "filled": True, "size": 80},
        "encoding": {
            "x": {
                "field": "x",
                "type": "quantitative" if across != ["label"] else "nominal",
                "title": None,
                **({} if across == ["label"] else {"scale": {"zero": False, "padding": 24}}),
            },
            "y": {"field": "y", "type": "quantitative", "title": None, "scale": {"zero": False}},
            "color": {"field": "c", "type": "nominal", "title": None},
            "opacity": {"condition": {"param": "shown", "value": 0.85}, "value": 0.1},
            "tooltip": [
                {"field": "y", "type": "quantitative", "title": "figure", "format": ".6~g"},
                *({"field": name, "type": "nominal"} for name in TOLD),
                *({"field": _literal(name), "type": "nominal", "title": name} for name in axes),
            ],
        },
        "width": "container",
        "height": 460,
    }


def _row(run: Run, record: Record) -> dict[str, dict[str, Any]]:
    figures = {}
    for name, figure in record.figures.items():
        value = _number(figure.value)
        if value is not None:
            many = "median of " if isinstance(figure.value, list | tuple) else ""
            where = ", ".join(word for word in (figure.unit, str(figure.provenance)) if word)
            figures[f"{many}{name} [{where}]"] = value
    told = (run.path.name, record.subject.name, record.label, str(record.status))
    axes = {
        name: value
        for name, value in record.details.items()
        if isinstance(value, int | float | str) and not isinstance(value, bool) and name not in TOLD
    }
    return {"told": dict(zip(TOLD, told, strict=True)), "axes": axes, "figures": figures}


def _number(value: object) -> float | None:
    """A number, or the median of a series of them."""
    if isinstance(value, list | tuple):
        numbers = [number for one in value if (number := _number(one)) is not None]
        return statistics.median(numbers) if numbers else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _likely(figures: Sequence[str]) -> str:
    """What a reader looks for first: waste, then whatever was measured, then the first."""
    for words in ("internal_fragmentation", "measured]", "counted]"):
        for name in figures:
            if words in name:
                return name
    return figures[0]


def _menu(name: str, options: Sequence[str], chosen: str) -> dict[str, Any]:
    bind = {"input": "select", "options": list(options), "name": f"{name} "}
    return {"name": name, "value": chosen, "bind": bind}


def _literal(name: str) -> str:
    """A field's name without the meaning that dots and brackets have in Vega."""
    return "".join(f"\\{char}" if char in ".[]\\'\"" else char for char in name)


def _script_safe(chart: dict[str, Any]) -> str:
    text = json_line(chart)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text
