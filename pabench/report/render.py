# SPDX-License-Identifier: Apache-2.0
"""One HTML file from one or more run directories."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pabench import __version__
from pabench.report.charts import charts_missing, heat_svg, trend_svg
from pabench.report.drawing import NoCharts
from pabench.report.model import ReportModel, build_model
from pabench.report.palette import DARK, LIGHT, chart_colours
from pabench.report.serving_charts import serving_svgs
from pabench.report.templates import template
from pabench.report.words import percent
from pabench.run.files import atomic_write_text, json_line
from pabench.run.read import Run, read_run, read_runs

MAX_CHARTS = 24
"""Drawings of one page, each about 0.1 s and 15 kB; the tables carry the rest."""


def render_report(runs: Sequence[Path], out: Path, *, base: Path | None = None) -> Path:
    """Read ``runs``, write the page to ``out`` in one go, and return ``out``.

    ``base`` is a run to compare with.
    The same journals give the same bytes: all times on the page come from ``run.json``.

    Raises:
        UsageError: a folder that is no run directory, or a line that breaks the schema.
        EnvironmentRefused: ``out`` cannot be written; it is then as it was.
    """
    atomic_write_text(out, render_html(read_runs(runs), base=None if base is None else read_run(base)))
    return out


def render_html(runs: Sequence[Run], *, base: Run | None = None) -> str:
    """Return the page over ``runs``; a pure function of them, of ``failures/`` and of the charts' fonts."""
    model, charts = build_model(runs, base=base), dict[str, Markup]()
    drawn = model.trend is not None or model.heat_maps or model.serving is not None
    # what draws takes as long to import as all the rest: not for a page that has nothing to draw
    missing = charts_missing() if drawn else None
    if drawn and not missing:
        try:
            charts = _charts(model)
        except NoCharts as error:
            missing = str(error)
    if missing:
        notes = (f"No charts on this page: {missing}. The tables carry every figure.",)
        model = build_model(runs, base=base, notes=notes)
    tables = {card.anchor: Markup(card.picture.svg) for card in model.cards if card.picture is not None}
    page = template("report.html.j2").render(
        model=model,
        charts=charts,
        tables=tables,
        version=__version__,
        light=asdict(LIGHT),
        dark=asdict(DARK),
        recolour=chart_colours(),
        percent=percent,
        speed_shown=any(heat.metric.speed for heat in model.heat_maps),
        data=Markup(_script_safe(model.data)),
    )
    return page if page.endswith("\n") else page + "\n"


def _charts(model: ReportModel) -> dict[str, Markup]:
    """SVG by chart id: ``trend``, and ``heat-<map>-<panel>`` by position."""
    drawn = {}
    if model.trend is not None:
        drawn["trend"] = Markup(trend_svg(model.trend, "trend"))
    for place, heat in enumerate(model.heat_maps):
        for number, panel in enumerate(heat.panels):
            uid = f"heat-{place}-{number}"
            if len(drawn) < MAX_CHARTS and (svg := heat_svg(heat, panel, uid)) is not None:
                drawn[uid] = Markup(svg)
    if model.serving is not None:
        drawn |= {uid: Markup(svg) for uid, svg in serving_svgs(model.serving).items()}
    return drawn


def _script_safe(data: dict[str, Any]) -> str:
    """JSON that cannot end the element it stands in."""
    text = json_line(data)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    json.loads(text)
    return text
