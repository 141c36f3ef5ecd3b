# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from pabench.report.heat import HeatMap, short_names
from pabench.report.model import ReportModel, build_model
from pabench.report.table import CellTable
from pabench.run.read import read_runs
from pabench.run.record import Status
from tests.support.report_data import (
    LENGTHS,
    WORDS,
    cell,
    check,
    conformance_lines,
    failed_cell,
    failed_check,
    sweep_lines,
    write_run,
)


def model(tmp_path: Path, *runs: tuple[str, list[dict[str, Any]], dict[str, Any]]) -> ReportModel:
    paths = [
        write_run(tmp_path / f"run{place}", kind, lines, **changes)
        for place, (kind, lines, changes) in enumerate(runs)
    ]
    return build_model(read_runs(paths))


def sweep_model(tmp_path: Path, lines: list[dict[str, Any]], **changes: Any) -> ReportModel:
    return model(tmp_path, ("sweep", lines, changes))


def maps(built: ReportModel, key: str) -> list[HeatMap]:
    return [heat for heat in built.heat_maps if heat.metric.key == key]


def table(built: ReportModel) -> CellTable:
    if built.table is None:
        raise AssertionError("no table")
    return built.table


def column(built: ReportModel, label: str) -> list[str]:
    found = table(built)
    place = [c.label for c in found.columns].index(label)
    return [texts[place] for _, texts in found.rows]


VERDICTS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "all right": (sweep_lines(batches=(8,)), {}, "PASS"),
    "wrong cell": ([cell(8, "azure-conv", 8), failed_cell(16, "azure-conv", 8)], {"exit_code": 1}, "FAIL"),
    "wrong cell, code 0": ([failed_cell(16, "azure-conv", 8)], {}, "FAIL"),
    "contradiction": ([cell(8, "azure-conv", 8, check={"passed": False})], {}, "FAIL"),
    "crash": ([failed_cell(8, "azure-conv", 8, status="crashed", check=None)], {"exit_code": 1}, "FAIL"),
    "code 1": (sweep_lines(batches=(8,)), {"exit_code": 1}, "FAIL"),
    "code 3": ([], {"exit_code": 3}, "FAIL"),
    "interrupted": (sweep_lines(batches=(8,)), {"exit_code": 2, "status": "interrupted"}, "INCOMPLETE"),
    "stopped, code 0": (sweep_lines(batches=(8,)), {"status": "interrupted"}, "INCOMPLETE"),
    "killed": (
        sweep_lines(batches=(8,)),
        {"exit_code": None, "status": "running", "finished": None},
        "INCOMPLETE",
    ),
    "nobody looked": ([cell(8, "azure-conv", 8, check=None)], {}, "INCOMPLETE"),
    "inconclusive": (sweep_lines(batches=(8,)), {"exit_code": 6}, "INCOMPLETE"),
    "empty": ([], {"exit_code": 5}, "NOTHING RAN"),
    "unsupported": (
        [cell(8, "azure-conv", 8, status="unsupported", check=None)],
        {"exit_code": 5},
        "NOTHING RAN",
    ),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_report_model_verdict(tmp_path: Path, name: str) -> None:
    lines, changes, word = VERDICTS[name]
    verdict = sweep_model(tmp_path, lines, **changes).verdict
    assert verdict.word == word
    assert verdict.sentence.endswith(".")


def test_report_model_verdict_says_why_an_item_could_not_be_decided(tmp_path: Path) -> None:
    """No time of a cell is no near tie of a token."""
    (run,) = read_runs([write_run(tmp_path / "run", "sweep", sweep_lines(batches=(4,)), exit_code=6)])
    first, *others = run.records
    first = replace(first, status=Status.INCONCLUSIVE, reason="no speed: 133% of the ceiling")
    verdict = build_model([replace(run, records=(first, *others))]).verdict
    assert verdict.word == "INCOMPLETE"
    assert verdict.sentence == "1 cell could not be decided: no speed: 133% of the ceiling."


def test_report_model_verdict_of_merged_runs_is_the_worst(tmp_path: Path) -> None:
    lines = [*conformance_lines(), failed_check("rawkernel", "decode[needle]")]
    built = model(
        tmp_path, ("sweep", sweep_lines(batches=(8,)), {}), ("conformance", lines, {"exit_code": 1})
    )
    assert built.verdict.word == "FAIL"
    assert built.verdict.exit_code == "exit codes 0 and 1"
    assert built.verdict.sentence == "Of 21 checks, 1 failed."


def test_report_model_counts_cases(tmp_path: Path) -> None:
    built = model(tmp_path, ("conformance", conformance_lines(), {}))
    counts = {count.label: count.value for count in built.verdict.counts}
    assert counts == {"checks passed": 20, "check unsupported": 1, "generated cases": 1460}


def test_report_model_wrong_cell_has_no_speed_even_if_the_journal_has(tmp_path: Path) -> None:
    wrong = failed_cell(8, "azure-conv", 8, run_ns=[1, 2], plan_ns=[1], modelled_tokens_per_s=1e9)
    built = sweep_model(tmp_path, [wrong, cell(16, "azure-conv", 8)], exit_code=1)
    assert column(built, "run")[0] == "–"
    assert column(built, "modelled tokens/s")[0] == "–"
    (speed,) = maps(built, "modelled_tokens_per_s")
    (panel,) = speed.panels
    first, second = panel.rows[0][2]
    assert (first.text, first.step) == ("failed", None)
    assert second.step is not None
    names = built.data["cells"]["columns"]
    assert built.data["cells"]["rows"][0][names.index("run_ns")] is None


def test_report_model_wrong_cell_keeps_its_memory_figures(tmp_path: Path) -> None:
    built = sweep_model(tmp_path, [failed_cell(16, "list:100,250,17,1024,16,1", 6)], exit_code=1)
    (waste,) = maps(built, "internal_fragmentation")
    assert waste.panels[0].rows[0][2][0].text == "3.30 %"
    assert waste.panels[0].rows[0][2][0].exact == "3/91"
    assert not maps(built, "modelled_tokens_per_s")


def test_report_model_shows_the_known_fractions(tmp_path: Path) -> None:
    built = sweep_model(tmp_path, sweep_lines(lengths=("list:100,250,17,1024,16,1",), batches=(6,)))
    (waste,) = maps(built, "internal_fragmentation")
    (gain,) = maps(built, "efficiency_gain")
    assert [c.exact for c in waste.panels[0].rows[0][2]] == ["3/179", "3/91", "3/47"]
    assert [c.exact for c in gain.panels[0].rows[0][2]] == ["768/179", "384/91", "192/47"]
    # one load only: pooled is the load itself
    assert [row.waste for row in built.page_sizes] == ["1.68 %", "3.30 %", "6.38 %"]
    assert [row.gain for row in built.page_sizes] == ["4.29 ×", "4.22 ×", "4.09 ×"]


def test_report_model_pools_only_what_every_page_size_has(tmp_path: Path) -> None:
    lines = sweep_lines(page_sizes=(8, 16), batches=(1, 64))
    partial = [line for line in lines if not (line["page_size"] == 16 and line["batch"] == 64)]
    rows = sweep_model(tmp_path, partial).page_sizes
    assert [row.batches for row in rows] == [3, 3]
    ones = [line for line in lines if line["batch"] == 1 and line["page_size"] == 8]
    share = Fraction(sum(x["waste_tokens"] for x in ones), sum(x["slots"] for x in ones))
    assert float(rows[0].waste.removesuffix(" %")) == pytest.approx(float(100 * share), rel=0.005)


def test_report_model_two_backends_share_one_memory_map(tmp_path: Path) -> None:
    lines = sweep_lines(batches=(8,)) + sweep_lines(batches=(8,), backend="torch-sdpa")
    built = sweep_model(tmp_path, lines)
    assert len(maps(built, "internal_fragmentation")) == 1
    assert len(maps(built, "modelled_tokens_per_s")) == 2
    assert built.page_sizes[0].batches == 3


def test_report_model_two_classes_share_neither_chart_nor_column(tmp_path: Path) -> None:
    words = {**WORDS, "run_ns": "measured", "modelled_tokens_per_s": "measured"}
    lines = [cell(8, "azure-conv", 8), cell(16, "azure-conv", 8, provenance=words)]
    built = sweep_model(tmp_path, lines)
    assert sorted(heat.provenance for heat in maps(built, "modelled_tokens_per_s")) == [
        "measured",
        "modelled",
    ]
    places = [place for place, c in enumerate(table(built).columns) if c.label == "run"]
    assert [table(built).columns[place].provenance for place in places] == ["host", "measured"]
    figures = [[texts[place] != "–" for place in places] for _, texts in table(built).rows]
    assert figures == [[True, False], [False, True]]


def test_report_model_unstated_provenance_is_a_warning(tmp_path: Path) -> None:
    built = sweep_model(tmp_path, [cell(8, "azure-conv", 8, provenance={"slots": "counted"})])
    assert any("No provenance is stated for: block_table_bytes" in warning for warning in built.warnings)
    assert {c.provenance for c in table(built).columns if c.label == "run"} == {"unstated"}


def test_report_model_table_order_does_not_depend_on_the_journal_order(tmp_path: Path) -> None:
    lines = sweep_lines()
    shuffled = sorted(lines, key=lambda line: (LENGTHS.index(line["lengths"]), line["id"]))
    one = table(sweep_model(tmp_path / "a", lines))
    assert one.rows == table(sweep_model(tmp_path / "b", shuffled)).rows
    assert [texts[2] for _, texts in one.rows[:4]] == ["8", "16", "32", "8"]


def test_report_model_matrix(tmp_path: Path) -> None:
    built = model(tmp_path, ("conformance", conformance_lines(), {}))
    backends, allocators = built.matrices
    assert [name for name, _, _ in backends.subjects] == ["rawkernel", "torch-sdpa"]
    append = backends.rows[-1]
    assert [c.state for c in append.cells] == ["passed", "unsupported"]
    assert append.cells[1].reason == "no append"
    assert allocators.subjects == (("scan", "emulated", "3 of 3 passed"),)


def test_report_model_worst_answer_of_two_runs_stands(tmp_path: Path) -> None:
    good = [check("rawkernel", "append"), check("torch-sdpa", "decode[needle]")]
    bad = [failed_check("rawkernel", "append")]
    built = model(tmp_path, ("conformance", bad, {"exit_code": 1}), ("conformance", good, {}))
    (matrix,) = built.matrices
    assert [c.state for c in matrix.rows[0].cells] == ["failed", "absent"]
    assert matrix.rows[0].cells[0].cases == "120 cases"


def test_report_model_failures_in_words(tmp_path: Path) -> None:
    built = model(
        tmp_path,
        ("sweep", [failed_cell(8, "azure-conv", 8)], {"exit_code": 1}),
        ("conformance", [failed_check("rawkernel", "append", max_ratio=float("inf"))], {"exit_code": 1}),
    )
    first, second = (card.example for card in built.cards)
    assert first.worst == "∞"
    assert first.replay == "pabench replay runs/c/failures/9b1d6c0e4a7f2283"
    assert second.title == "rawkernel on emulated: cell page size 8, azure-conv, batch 8"
    assert "physical page 12" in second.text


def test_report_model_keeps_the_end_of_a_traceback(tmp_path: Path) -> None:
    long = failed_check("rawkernel", "append", traceback="x" * 50_000 + "\nKeyError: \u202e3")
    built = model(tmp_path, ("conformance", [failed_check("rawkernel", "split"), long], {"exit_code": 1}))
    (card,) = built.cards
    none, some = (failure.traceback for failure in card.failures)
    assert none == ""
    assert some.endswith("x\nKeyError: \\u202e3")
    assert len(some) < 8_010


def test_report_model_nan_is_the_worst_ratio(tmp_path: Path) -> None:
    lines = [check("x", "a", max_ratio=r) for r in (0.1, float("nan"), 5.0)]
    (matrix,) = model(tmp_path, ("conformance", lines, {})).matrices
    assert matrix.rows[0].cells[0].worst == "err/T NaN"


def test_report_model_warns_of_torn_journal_and_repeats(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", "sweep", [cell(8, "azure-conv", 8)] * 2, status="interrupted")
    with (path / "journal.jsonl").open("a") as journal:
        journal.write('{"kind": "ce')
    text = " ".join(build_model(read_runs([path])).warnings)
    assert "torn line" in text
    assert "1 cell stand in more than one place" in text
    assert "is interrupted" in text


def test_report_model_trend_needs_two_page_sizes(tmp_path: Path) -> None:
    assert sweep_model(tmp_path / "a", sweep_lines(page_sizes=(8,))).trend is None
    trend = sweep_model(tmp_path / "b", sweep_lines()).trend
    if trend is None:
        raise AssertionError("no trend")
    assert (trend.batch, len(trend.lines), trend.left_out) == (64, 3, ())
    assert [size for size, _ in trend.lines[0].points] == [8, 16, 32]


def test_report_model_trend_names_what_does_not_fit(tmp_path: Path) -> None:
    many = tuple(f"fixed:len={n}" for n in range(1, 10))
    trend = sweep_model(tmp_path, sweep_lines(lengths=many, batches=(2,))).trend
    if trend is None:
        raise AssertionError("no trend")
    assert trend.left_out == ("fixed:len=7", "fixed:len=8", "fixed:len=9")


def test_report_model_short_names_never_merge_two_specs() -> None:
    specs = {
        "lognormal:mean=1024,cv=1": "lognormal:mean=1024",
        "lognormal:mean=2048,cv=1": "lognormal:mean=2048",
        "zipf:s=1.25,max=8192,more=1": "zipf",
        "azure-conv": "azure-conv",
        "list:" + "1," * 20 + "1": "list:1,1,1,1,1,1,1,…",
        "list:" + "1," * 20 + "2": "list:1,1,1,1,1,1,1,… (2)",
        "y" * 30: "y" * 19 + "…",
        "y" * 31: "y" * 19 + "… (2)",
    }
    assert short_names(list(specs)) == specs


def test_report_model_differing_machines_are_a_warning(tmp_path: Path) -> None:
    other = {"pabench": "9.9", "cpu": {"name": "Another"}}
    built = model(tmp_path, ("sweep", [], {}), ("sweep", [], {"provenance": other}))
    assert any("different pabench versions: 0.1.0, 9.9" in warning for warning in built.warnings)


def test_report_model_survives_a_bare_record(tmp_path: Path) -> None:
    bare = {"kind": "cell", "id": "1", "status": "ok", "backend": "b", "device": "d"}
    built = sweep_model(
        tmp_path, [{**bare, "page_size": 8, "lengths": "x", "batch": 0}], provenance={}, config={}
    )
    assert built.heat_maps == ()
    assert built.trend is None


def test_report_model_summary_follows_from_the_results(tmp_path: Path) -> None:
    lines = [
        check("mine", "repeat"),
        check("mine", "batch", missing_badges={"batch-invariant": "alone: <bits> differ"}),
    ]
    built = model(tmp_path, ("conformance", lines, {}))
    (row,) = built.summaries
    assert (row.subject, row.badges) == ("mine", ("deterministic",))
    assert row.without == (("batch-invariant", "batch: alone: <bits> differ"),)
    assert row.clauses == f"3 of {3 + len(row.open.split(', '))}"
    (broken,) = model(tmp_path / "b", ("conformance", [failed_check("mine", "repeat")], {})).summaries
    assert (broken.broken, broken.badges) == ("D8, Q4", ())


def test_report_page_shows_badges_and_what_is_in_their_way(tmp_path: Path) -> None:
    from pabench.report.render import render_html

    lines = [
        check("mine", "repeat"),
        check("mine", "batch", missing_badges={"batch-invariant": "alone: <bits> differ"}),
    ]
    page = render_html(read_runs([write_run(tmp_path / "run", "conformance", lines)]))
    assert "deterministic" in page
    assert "no batch-invariant: batch: alone: &lt;bits&gt; differ" in page
