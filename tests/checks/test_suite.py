# SPDX-License-Identifier: Apache-2.0
"""The suite as a table: what a row must have, and that a new row is all that a new question takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pabench.checks.question import AllocatorCheck, AllocatorQuestion
from pabench.checks.suite import BY_ID, QUESTIONS, questions_for
from pabench.run.read import read_run

ROOT = Path(__file__).resolve().parents[2]

TOY = '''
import sys
from pathlib import Path
from hypothesis import strategies as st
from pabench.checks.outcome import PASSED
from pabench.checks.question import Check, Question
from pabench.checks.questions import append
from pabench.problem import Batch, Case, Problem

def check_toy(case, backend, device):
    """A toy is asked, and always right."""
    return PASSED

def cases(declared):
    problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=16, page_size=1, dtype=declared.dtypes[0])
    return st.integers(1, 9).map(lambda length: Case(problem=problem, batch=Batch(kv_lens=(length,))))

row = Question(check=Check(id="toy", operation="decode", run=check_toy), clauses=("Q9",), draw=cases)
append.GATHERS += (row,)

from pabench.cli.main import run
from pabench.checks.specification import CLAUSES
print(CLAUSES["Q9"])
codes = [
    run(["list", "questions", "--json"]),
    run(["conformance", "--backend", "torch-sdpa", "-k", "toy", "--device", "emulated", "--profile", "quick",
         "--in-process", "--artifacts", sys.argv[1], "--json", sys.argv[2]]),
]
sys.exit(max(codes))
'''


def test_suite_takes_a_new_question_by_its_row_alone(tmp_path: Path) -> None:
    folder, file = tmp_path / "run", tmp_path / "result.json"
    done = subprocess.run(
        [sys.executable, "-c", TOY, str(folder), str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    mapped, _, listed = done.stdout.partition("\n")
    assert mapped == "('toy',)"
    answer, _ = json.JSONDecoder().raw_decode(listed)
    (toy,) = [row for row in answer["rows"] if row["name"] == "toy"]
    assert toy == {
        "name": "toy",
        "asks": "backend",
        "clauses": ["Q9"],
        "about": "A toy is asked, and always right.",
    }
    (line,) = read_run(folder).lines
    assert (line["check"], line["status"], line["cases"]) == ("toy", "passed", 9)
    assert "toy" in (folder / "report.html").read_text(encoding="utf-8")
    (summary,) = json.loads(file.read_text())["subjects"]
    assert summary["kept"] == ["Q9"]


def test_suite_ids_are_unique_and_say_their_check_and_label() -> None:
    assert len(BY_ID) == len(QUESTIONS)
    for name, row in BY_ID.items():
        assert name == (row.check.id if row.label is None else f"{row.check.id}[{row.label}]")
        assert row.sentence.endswith(".")
        assert "\n" not in row.sentence


def test_suite_puts_each_question_to_one_kind_of_subject() -> None:
    backend, allocator = questions_for("backend"), questions_for("allocator")
    assert [*allocator, *backend] == list(QUESTIONS)
    assert all(row.id.startswith("allocator-") for row in allocator)
    assert not any(row.id.startswith("allocator-") for row in backend)


def test_suite_refuses_a_row_about_allocators_that_draws_nothing() -> None:
    check = AllocatorCheck(id="nothing", run=lambda case, new, device: pytest.fail("never asked"))
    with pytest.raises(TypeError, match="the row nothing must have either a machine or a strategy"):
        AllocatorQuestion(check=check, clauses=("P1",))


def test_suite_workers_import_no_pytest() -> None:
    heavy = "{'pytest', '_pytest', 'pandas', 'jinja2'}"
    code = f"import sys, pabench.activities.conformance.bench; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"
