# SPDX-License-Identifier: Apache-2.0
"""Charts as static SVG: written as Vega-Lite, drawn by vl-convert, no script and no browser.

Colours, labels and steps are decided in the view model; a chart only places them.  Where vl-convert is not
installed there are no charts, and the tables say the same.
"""

from __future__ import annotations

import importlib
from typing import Any

from pabench.report.drawing import draw_svg
from pabench.report.heat import HeatMap, HeatPanel
from pabench.report.palette import EMPTY, GRID, HATCH, INK, LINES, MUTED, PAPER, SHAPES, STEPS, ramp
from pabench.report.svg import finish_svg
from pabench.report.trend import Trend

CELL_WIDTH, CELL_HEIGHT = 70, 34
ROOM = 940
"""Pixels for the boxes of one row beside their label, on a page of 1,440."""
LEAST_WIDTH = 54
LABEL_LIMIT = 130
CONFIG = {
    "background": PAPER[0],
    "font": "Helvetica, Arial, sans-serif",
    "padding": 4,
    "aria": False,
    "view": {"stroke": None},
    "axis": {
        "labelColor": MUTED[0],
        "titleColor": MUTED[0],
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": LABEL_LIMIT,
        "labelPadding": 6,
        "titlePadding": 8,
        "domain": False,
        "ticks": False,
        "gridColor": GRID[0],
    },
    "legend": {"labelColor": INK[0], "labelFontSize": 12, "labelLimit": 120, "symbolSize": 70},
}
Chart = dict[str, Any]
"""A Vega-Lite chart, or a part of one."""
MAX_CHART_CELLS = 400
"""Squares of one chart; beyond that nobody reads numbers in a picture, and the table stands alone."""


def charts_missing() -> str | None:
    """Return why no chart can be drawn here, or None when they can."""
    try:
        importlib.import_module("vl_convert")
    except Exception as error:  # a binary wheel can fail in many ways, and none may cost the report
        return f"vl-convert-python cannot be imported ({type(error).__name__})"
    return None


def heat_svg(heat: HeatMap, panel: HeatPanel, uid: str) -> str | None:
    """Return the SVG of one panel: numbers on coloured squares; hatched, with a word, where there is none."""
    cells = [(name, cell) for name, _, row in panel.rows for cell in row]
    if len(cells) > MAX_CHART_CELLS:
        return None
    colours = [light for light, _ in ramp(heat.metric.ramp)]
    columns = [str(size) for size in panel.page_sizes]
    width = max(LEAST_WIDTH, min(CELL_WIDTH, ROOM // len(columns)))
    font = 13 if width == CELL_WIDTH else 11
    rows = _unique([name for name, _, _ in panel.rows])
    values = [
        {
            "x": str(cell.page_size),
            "y": rows[place],
            "text": cell.text,
            "step": -1 if cell.step is None else cell.step,
        }
        for place, (_, _, row) in enumerate(panel.rows)
        for cell in row
    ]
    fill = {"domain": [-1, *range(STEPS)], "range": [EMPTY[0], *colours]}
    layers: list[Chart] = [
        {
            "mark": {"type": "rect", "stroke": PAPER[0], "strokeWidth": 2},
            "encoding": {"color": field("step", "ordinal", scale=fill, legend=None)},
        }
    ]
    if any(cell.step is None for _, cell in cells):
        # sized so that the strokes of the shape, drawn on -1..1, span one square
        shape = {"shape": _hatch_path(width), "size": CELL_HEIGHT**2, "filled": False}
        hatch = {"type": "point", **shape, "stroke": HATCH[0], "strokeWidth": 1}
        layers.append({"mark": hatch, "transform": [{"filter": "datum.step < 0"}]})
        # the word twice: a wide one in the ground's colour that clears the hatching, and the one to read
        halo = {"color": EMPTY[0], "stroke": EMPTY[0], "strokeWidth": 4, "strokeJoin": "round"}
        for look in (halo, {"color": INK[0]}):
            word = {"type": "text", "fontSize": font - 1, "fontStyle": "italic", **look}
            layers.append(_texts(word, "datum.step < 0"))
    layers.append(_texts({"type": "text", "fontSize": font, "color": INK[0]}, "datum.step >= 0"))
    axis = {"labelAngle": 0, "orient": "bottom"}
    chart = {
        "data": {"values": values},
        "encoding": {
            "x": field("x", "nominal", sort=columns, title="page size (tokens)", axis=axis),
            "y": field("y", "nominal", sort=rows, title=None),
        },
        "layer": layers,
        "width": width * len(columns),
        "height": CELL_HEIGHT * len(rows),
    }
    shown = "; ".join(
        f"{name}: " + ", ".join(f"{cell.text} at page size {cell.page_size}" for cell in row)
        for name, _, row in panel.rows[:12]
    )
    title = f"{heat.metric.title} by page size and lengths, batch {panel.batch}"
    return finish_svg(draw(chart), uid=uid, title=title, description=f"{heat.provenance} figures. {shown}.")


def trend_svg(trend: Trend, uid: str) -> str:
    """Return the SVG of waste by page size, one line and one marker shape a length family."""
    names = _unique([line.name for line in trend.lines])
    values = [
        {"x": size, "y": 100 * share, "name": name}
        for name, line in zip(names, trend.lines, strict=True)
        for size, share in line.points
    ]
    sizes = sorted({size for line in trend.lines for size, _ in line.points})
    colour = {"domain": names, "range": [light for light, _ in LINES[: len(names)]]}
    legend = {"title": None, "orient": "bottom", "columns": 2, "rowPadding": 6, "columnPadding": 16}
    lines = field("name", "nominal", scale=colour, legend=legend)
    points = field("name", "nominal", scale={"domain": names, "range": list(SHAPES[: len(names)])})
    chart = {
        "data": {"values": values},
        "encoding": {
            "x": field(
                "x",
                "quantitative",
                title="page size (tokens), log scale",
                scale={"type": "log", "base": 2, "nice": False, "padding": 24},
                axis={"values": sizes, "format": "d", "labelOverlap": True, "grid": False},
            ),
            "y": field(
                "y", "quantitative", title="waste (% of slots)", axis={"tickCount": 5, "format": "~r"}
            ),
        },
        "layer": [
            {"mark": {"type": "line", "strokeWidth": 2}, "encoding": {"color": lines}},
            {
                "mark": {"type": "point", "size": 70, "filled": True, "opacity": 1},
                "encoding": {"color": lines, "shape": points},
            },
        ],
        "width": 265,
        "height": 190,
    }
    shown = "; ".join(
        f"{name}: " + ", ".join(f"{100 * share:.3g} % at {size}" for size, share in line.points)
        for name, line in zip(names, trend.lines, strict=True)
    )
    title = f"Waste by page size, batch {trend.batch}"
    return finish_svg(draw(chart), uid=uid, title=title, description=f"counted figures. {shown}.")


def field(name: str, kind: str, **more: Any) -> Chart:
    """Return the encoding of a field of the data; ``kind`` is nominal, ordinal or quantitative."""
    return {"field": name, "type": kind, **more}


def draw(chart: Chart) -> str:
    """Return the SVG of a Vega-Lite chart in the fonts and colours of the page; raises ``NoCharts``."""
    return draw_svg({"config": CONFIG, **chart})


def _texts(mark: Chart, only: str) -> Chart:
    return {
        "mark": mark,
        "encoding": {"text": field("text", "nominal")},
        "transform": [{"filter": only}],
    }


def _hatch_path(width: int) -> str:
    """Diagonals across a box of ``width`` x ``CELL_HEIGHT``, in units of half its height."""
    reach = width / CELL_HEIGHT
    starts = [-reach + k * reach / 4 for k in range(-3, 8)]
    strokes = []
    for start in starts:
        # the line y = 1 - (x - start), cut at the square's sides
        left, right = max(-reach, start), min(reach, start + 2)
        if left < right:
            strokes.append(f"M{left:.3f},{1 - (left - start):.3f}L{right:.3f},{1 - (right - start):.3f}")
    return "".join(strokes)


def _unique(names: list[str]) -> list[str]:
    """Two rows of one name would be drawn on top of each other."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unique
