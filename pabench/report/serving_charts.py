"""Charts of the serving section as static SVG."""

from __future__ import annotations

import importlib
from typing import Any

from pabench.report.charts import draw
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
    alt: Any = importlib.import_module("altair")
    colours = [*PART_COLOURS[: len(parts) - 1], HATCH[0]]
    values = [
        {"name": bar.name, "part": part, "order": order, "share": 100 * share}
        for bar in bars
        for order, (part, share) in enumerate(zip(parts, bar.shares, strict=True))
    ]
    chart = (
        alt.Chart(alt.InlineData(values=values))
        .mark_bar(size=18)
        .encode(
            x=alt.X("share:Q", title="% of the pool", scale=alt.Scale(domain=[0, 100]), stack="zero"),
            y=alt.Y("name:N", sort=[bar.name for bar in bars], title=None),
            color=alt.Color(
                "part:N",
                scale=alt.Scale(domain=list(parts), range=colours),
                legend=alt.Legend(title=None, orient="bottom", columns=3),
            ),
            order=alt.Order("order:Q"),
        )
        .properties(width=420, height=28 * len(bars))
    )
    said = "; ".join(
        f"{bar.name}: "
        + ", ".join(f"{part} {percent(share)}" for part, share in zip(parts, bar.shares, strict=True))
        for bar in bars
    )
    return finish_svg(draw(chart), uid=uid, title="Where memory is", description=f"counted figures. {said}.")


def lines_svg(chart: Lines) -> str:
    """Return a line chart, one line a server."""
    alt: Any = importlib.import_module("altair")
    names = [name for name, _ in chart.lines]
    values = [{"x": x, "y": y, "name": name} for name, points in chart.lines for x, y in points]
    scale: dict[str, Any] = {"scale": alt.Scale(type="log", base=2, nice=False)} if chart.log else {}
    sizes = sorted({x for _, points in chart.lines for x, _ in points})
    ticks = {"values": sizes, "format": "d", "labelOverlap": True} if chart.log else {}
    axis = alt.Axis(grid=False, **ticks)
    colour = alt.Color(
        "name:N",
        scale=alt.Scale(domain=names, range=[light for light, _ in LINES[: len(names)]]),
        legend=alt.Legend(title=None, orient="bottom", columns=2, labelLimit=200) if len(names) > 1 else None,
    )
    drawn = (
        alt.Chart(alt.InlineData(values=values))
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("x:Q", title=chart.x_title, axis=axis, **scale),
            y=alt.Y("y:Q", title=chart.y_title, axis=alt.Axis(tickCount=5, format=",~g")),
            color=colour,
        )
        .properties(width=300, height=170)
    )
    said = "; ".join(f"{name}: {text}" for name, text in chart.rows)
    return finish_svg(
        draw(drawn), uid=chart.uid, title=chart.title, description=f"{chart.word} figures. {said}."
    )
