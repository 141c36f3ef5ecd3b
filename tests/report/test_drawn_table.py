# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

from pabench.checks.space import Space
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.problem import Problem
from pabench.report.drawn import build_drawn
from pabench.report.render import render_html
from pabench.report.source import build_source
from pabench.run.read import read_runs
from tests.support.report_data import check, write_run


def space_of(*cases: Case) -> Space:
    space = Space()
    for case in cases:
        space.add(case)
    return space


def case_of(group: int, head_dim: int, kv_len: int) -> Case:
    problem = Problem(num_qo_heads=2 * group, num_kv_heads=2, head_dim=head_dim, page_size=16)
    return Case(problem=problem, batch=Batch(kv_lens=(kv_len,)))


def test_drawn_table_says_what_was_met_and_what_was_not(tmp_path: Path) -> None:
    few, many = space_of(case_of(1, 64, 5)), space_of(case_of(24, 64, 70_000), case_of(4, 128, 9))
    lines = [
        check("mine", "a", space=few.to_json(), refused={"head_dim": ["512", "576"]}),
        check("mine", "b", space=many.to_json(), refused={"head_dim": ["512", "576"]}),
        check("scan", "c", subject_kind="allocator", space={}),
        check("older", "d"),
    ]
    source = build_source(read_runs([write_run(tmp_path / "run", "conformance", lines)]))
    (drawn,) = build_drawn(source)
    assert drawn.subject == "mine"
    rows = {row.axis: row for row in drawn.rows}
    assert rows["query heads a KV head"].ends == "1 to 24"
    assert (
        rows["query heads a KV head"].met
        == "1 (1), 2 to 8 (1), above 16, others (1), above 16, across KV heads (1)"
    )
    assert rows["query heads a KV head"].never == "9 to 16, above 16, multiples of 16"
    assert rows["head_dim"].met == "64 (2), 128 (1)"
    assert rows["head_dim"].refused == "512, 576"
    assert "512" not in rows["head_dim"].never
    assert "72" in rows["head_dim"].never
    assert rows["keys of a sequence"].ends == "5 to 70,000"


def test_drawn_table_is_on_the_page_and_spares_its_data(tmp_path: Path) -> None:
    space = space_of(case_of(24, 64, 70_000)).to_json()
    runs = read_runs([write_run(tmp_path / "run", "conformance", [check("mine", "a", space=space)])])
    page = render_html(runs)
    assert "What was drawn for mine" in page
    assert "above 16, across KV heads (1)" in page
    assert page.count("above 16, across KV heads") == 1
