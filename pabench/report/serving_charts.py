# SPDX-License-Identifier: Apache-2.0
"""Charts of the serving section as static SVG."""

from __future__ import annotations

from pabench.report.charts import draw, field
from pabench.report.palette import HATCH, LINES
from pabench.report.serving import PARTS, Bar, Lines, ServingView
from pabench.report.svg import finish_svg
from pabench.report.words import percent

PART_COLOURS = (LINES[0][0], LINES[2][0], LINES[1][0], LINES[3][0])
"""Of all parts but the last, which nobody holds."""
WORDS = tuple(words for _, words in PARTS)


def serving_svgs(view: ServingView) -> dict[str, str]:
    """Return chart id to SVG."""
    drawn = {chart.uid: lines_svg(chart) for chart in view.charts}
    if view.bars:
        drawn["serving-split"] = split_svg(view.bars, "serving-split")
    return drawn


def split_svg(bars: tuple[Bar, ...], uid: str, parts: tuple[str, ...] = WORDS) -> str:
    """Return stacked bars, one a server, of the parts of memory."""
    colours = [*PART_COLOURS[: len(parts) - 1], HATCH[0]]
    values = [
        {"name": bar.name, "part": part, "order": order, "share": 100 * share}
        for bar in bars
        for order, (part, share) in enumerate(zip(parts, bar.shares, strict=True))
    ]
    scale = {"domain": list(parts), "range": colours}
    legend = {"title": None, "orient": "bottom", "columns": 3}
    chart = {
        "data": {"values": values},
        "mark": {"type": "bar", "size": 18},
        "encoding": {
            "x": field(
                "share", "quantitative", title="% of the pool", scale={"domain": [0, 100]}, stack="zero"
            ),
            "y": field("name", "nominal", sort=[bar.name for bar in bars], title=None),
            "color": field("part", "nominal", scale=scale, legend=legend),
            "order": field("order", "quantitative"),
        },
        "width": 420,
        "height": 28 * len(bars),
    }
    said = "; ".join(
        f"{bar.name}: "
        + ", ".join(f"{part} {percent(share)}" for part, share in zip(parts, bar.shares, strict=True))
        for bar in bars
    )
    return finish_svg(draw(chart), uid=uid, title="Where memory is", description=f"counted figures. {said}.")


def lines_svg(chart: Lines) -> str:
    """Return a line chart, one line a server."""
    names = [name for name, _ in chart.lines]
    values = [{"x": x, "y": y, "name": name} for name, points in chart.lines for x, y in points]
    x = field("x", "quantitative", title=chart.x_title, axis={"grid": False})
    if chart.log:
        sizes = sorted({x for _, points in chart.lines for x, _ in points})
        x["scale"] = {"type": "log", "base": 2, "nice": False}
        x["axis"] |= {"values": sizes, "format": "d", "labelOverlap": True}
    legend = {"title": None, "orient": "bottom", "columns": 2, "labelLimit": 200} if len(names) > 1 else None
    colour = {"domain": names, "range": [light for light, _ in LINES[: len(names)]]}
    drawn = {
        "data": {"values": values},
        "mark": {"type": "line", "strokeWidth": 2},
        "encoding": {
            "x": x,
            "y": field("y", "quantitative", title=chart.y_title, axis={"tickCount": 5, "format": ",~r"}),
            "color": field("name", "nominal", scale=colour, legend=legend),
        },
        "width": 300,
        "height": 170,
    }
    said = "; ".join(f"{name}: {text}" for name, text in chart.rows)
    return finish_svg(
        draw(drawn), uid=chart.uid, title=chart.title, description=f"{chart.word} figures. {said}."
    )
