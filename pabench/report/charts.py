"""Charts as static SVG: altair describes, vl-convert draws, no script and no browser.

Colours, labels and steps are decided in the view model; a chart only places them.  Where altair or vl-convert
is not installed there are no charts, and the tables say the same.
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
FONT = "Helvetica, Arial, sans-serif"
MAX_CHART_CELLS = 400
"""Squares of one chart; beyond that nobody reads numbers in a picture, and the table twin stands alone."""


def charts_missing() -> str | None:
    """Return why no chart can be drawn here, or None when they can."""
    for module, package in (("altair", "altair"), ("vl_convert", "vl-convert-python")):
        try:
            importlib.import_module(module)
        except Exception as error:  # a binary wheel can fail in many ways, and none may cost the report
            return f"{package} cannot be imported ({type(error).__name__})"
    return None


def heat_svg(heat: HeatMap, panel: HeatPanel, uid: str) -> str | None:
    """Return the SVG of one panel: numbers on coloured squares; hatched, with a word, where there is none."""
    alt: Any = importlib.import_module("altair")
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
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X(
            "x:N", sort=columns, title="page size (tokens)", axis=alt.Axis(labelAngle=0, orient="bottom")
        ),
        y=alt.Y("y:N", sort=rows, title=None),
    )
    fill = alt.Scale(domain=[-1, *range(STEPS)], range=[EMPTY[0], *colours])
    squares = base.mark_rect(stroke=PAPER[0], strokeWidth=2).encode(
        color=alt.Color("step:O", scale=fill, legend=None)
    )
    layers: list[Any] = [squares]
    if any(cell.step is None for _, cell in cells):
        # sized so that the strokes of the shape, drawn on -1..1, span one square
        hatch = base.mark_point(
            shape=_hatch_path(width), size=CELL_HEIGHT**2, stroke=HATCH[0], strokeWidth=1, filled=False
        )
        layers.append(hatch.transform_filter("datum.step < 0"))
        # the word twice: a wide one in the ground's colour that clears the hatching, and the one to read
        halo = {"color": EMPTY[0], "stroke": EMPTY[0], "strokeWidth": 4, "strokeJoin": "round"}
        for look in (halo, {"color": INK[0]}):
            words = base.mark_text(fontSize=font - 1, fontStyle="italic", **look).encode(text="text:N")
            layers.append(words.transform_filter("datum.step < 0"))
    figures = base.mark_text(fontSize=font, color=INK[0]).encode(text="text:N")
    layers.append(figures.transform_filter("datum.step >= 0"))
    chart = alt.layer(*layers).properties(width=width * len(columns), height=CELL_HEIGHT * len(rows))
    shown = "; ".join(
        f"{name}: " + ", ".join(f"{cell.text} at page size {cell.page_size}" for cell in row)
        for name, _, row in panel.rows[:12]
    )
    title = f"{heat.metric.title} by page size and lengths, batch {panel.batch}"
    return finish_svg(draw(chart), uid=uid, title=title, description=f"{heat.provenance} figures. {shown}.")


def trend_svg(trend: Trend, uid: str) -> str:
    """Return the SVG of waste by page size, one line and one marker shape a length family."""
    alt: Any = importlib.import_module("altair")
    names = _unique([line.name for line in trend.lines])
    values = [
        {"x": size, "y": 100 * share, "name": name}
        for name, line in zip(names, trend.lines, strict=True)
        for size, share in line.points
    ]
    sizes = sorted({size for line in trend.lines for size, _ in line.points})
    base = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X(
            "x:Q",
            title="page size (tokens), log scale",
            scale=alt.Scale(type="log", base=2, nice=False, padding=24),
            axis=alt.Axis(values=sizes, format="d", labelOverlap=True, grid=False),
        ),
        y=alt.Y("y:Q", title="waste (% of slots)", axis=alt.Axis(tickCount=5, format="~g")),
    )
    colour = alt.Color(
        "name:N",
        scale=alt.Scale(domain=names, range=[light for light, _ in LINES[: len(names)]]),
        legend=alt.Legend(title=None, orient="bottom", columns=2, rowPadding=6, columnPadding=16),
    )
    shape = alt.Shape("name:N", scale=alt.Scale(domain=names, range=list(SHAPES[: len(names)])))
    lines = base.mark_line(strokeWidth=2).encode(color=colour)
    points = base.mark_point(size=70, filled=True, opacity=1).encode(color=colour, shape=shape)
    chart = alt.layer(lines, points).properties(width=265, height=190)
    shown = "; ".join(
        f"{name}: " + ", ".join(f"{100 * share:.3g} % at {size}" for size, share in line.points)
        for name, line in zip(names, trend.lines, strict=True)
    )
    title = f"Waste by page size, batch {trend.batch}"
    return finish_svg(draw(chart), uid=uid, title=title, description=f"counted figures. {shown}.")


def draw(chart: Any) -> str:
    """Return the SVG of an altair chart in the fonts and colours of the page; raises ``NoCharts``."""
    themed = (
        chart.configure(background=PAPER[0], font=FONT, padding=4, aria=False)
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=MUTED[0],
            titleColor=MUTED[0],
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            labelLimit=LABEL_LIMIT,
            labelPadding=6,
            titlePadding=8,
            domain=False,
            ticks=False,
            gridColor=GRID[0],
        )
        .configure_legend(labelColor=INK[0], labelFontSize=12, labelLimit=120, symbolSize=70)
    )
    # the tests draw every kind of chart; checking each against the schema again would double the time
    return draw_svg(themed.to_dict(validate=False))


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
