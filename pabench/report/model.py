# SPDX-License-Identifier: Apache-2.0
"""Everything the page says, computed before a template sees it: journal -> view model, a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pabench.report.against import Against, build_against
from pabench.report.answers import build_answers
from pabench.report.deviations import DeviationRow, build_deviations
from pabench.report.drawn import DrawnSpace, build_drawn
from pabench.report.facts import RunFacts, build_facts
from pabench.report.faults import Card, build_cards
from pabench.report.heat import HeatMap, build_heat_maps
from pabench.report.language import ModelRunView, build_language
from pabench.report.matrix import CellChecks, Matrix, build_cell_checks, build_matrices
from pabench.report.notes import Skip, build_skips, build_warnings
from pabench.report.operations import OPERATIONS
from pabench.report.others import OtherRow, build_others
from pabench.report.roofline import RooflineView, build_roofline
from pabench.report.sections import SectionView, build_sections
from pabench.report.serving import ServingView, build_serving
from pabench.report.source import Source, build_source
from pabench.report.stress import StressRow, build_stress
from pabench.report.summaries import SummaryRow, build_summaries
from pabench.report.table import CellTable, build_table
from pabench.report.trend import PageSizeRow, Trend, build_page_sizes, build_trend
from pabench.report.verdict import Verdict, build_verdict
from pabench.run.read import Run

DATA_SCHEMA = 1
LEFT_OUT = ("kind", "space", "refused")
"""Fields that the page's data has no room for, or that the table around them says."""
DATA_SAMPLES = 50
"""Samples of one cell that the page carries along; the journal has them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportModel:
    """The report, ready to be laid out."""

    title: str
    verdict: Verdict
    runs: tuple[RunFacts, ...]
    matrices: tuple[Matrix, ...]
    summaries: tuple[SummaryRow, ...]
    drawn: tuple[DrawnSpace, ...]
    cell_checks: tuple[CellChecks, ...]
    cards: tuple[Card, ...]
    against: Against | None
    deviations: tuple[DeviationRow, ...]
    page_sizes: tuple[PageSizeRow, ...]
    heat_maps: tuple[HeatMap, ...]
    trend: Trend | None
    table: CellTable | None
    roofline: RooflineView | None
    serving: ServingView | None
    stress: tuple[StressRow, ...]
    language: tuple[ModelRunView, ...]
    sections: tuple[SectionView, ...]
    others: tuple[OtherRow, ...]
    warnings: tuple[str, ...]
    skips: tuple[Skip, ...]
    data: dict[str, Any]


def build_model(runs: Sequence[Run], *, base: Run | None = None, notes: tuple[str, ...] = ()) -> ReportModel:
    """Return the view model of one page over ``runs``.

    Args:
        runs: what the page shows.
        base: a run to compare with.
        notes: further warnings of the caller.
    """
    source = build_source(runs)
    cards, summaries = build_cards(source), build_summaries(source)
    against = None if base is None else build_against(runs, base)
    sections, broken = build_sections(source, {"operation": OPERATIONS})
    return ReportModel(
        title=_title(source),
        verdict=build_verdict(source, cards, build_answers(source, summaries, against)),
        runs=build_facts(source),
        matrices=build_matrices(source, cards),
        summaries=summaries,
        drawn=build_drawn(source),
        cell_checks=build_cell_checks(source),
        cards=cards,
        against=against,
        deviations=build_deviations(source),
        page_sizes=build_page_sizes(source),
        heat_maps=build_heat_maps(source),
        trend=build_trend(source),
        table=build_table(source),
        roofline=build_roofline(source),
        serving=build_serving(source),
        stress=build_stress(source),
        language=build_language(source),
        sections=sections,
        others=build_others(source, without={section.kind for section in sections}),
        warnings=build_warnings(source, (*notes, *broken)),
        skips=build_skips(source),
        data=_data(source),
    )


def _title(source: Source) -> str:
    names = dict.fromkeys(str(line.data["subject"]) for line in source.lines)
    what = " and ".join(dict.fromkeys(str(run.record["kind"]) for run in source.runs))
    few = ", ".join(name if len(name) <= 40 else name[:39] + "…" for name in list(names)[:4]) + (
        ", …" if len(names) > 4 else ""
    )
    return f"{what.capitalize()} of {few}" if names else what.capitalize()


def _data(source: Source) -> dict[str, Any]:
    """The journals as columns and rows, which takes half the room of one object a line."""
    tables = {}
    kinds = ("cells", "operations", "checks", "servers", "stress", "models", "others")
    for name, lines in ((kind, getattr(source, kind)) for kind in kinds):
        columns = list(dict.fromkeys(key for line in lines for key in line.data if key not in LEFT_OUT))
        rows = [[line.run, *(_few(line.data.get(key)) for key in columns)] for line in lines]
        tables[name] = {"columns": ["run", *columns], "rows": rows}
    runs = [{"name": run.name, **run.record} for run in source.runs]
    return {"schema": DATA_SCHEMA, "runs": runs, **tables}


def _few(value: Any) -> Any:
    return value[:DATA_SAMPLES] if isinstance(value, list) else value
