# SPDX-License-Identifier: Apache-2.0
"""``pabench report`` of runs that somebody else wrote: a page, or one line that names file, line and rule."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pabench.cli.main import run
from pabench.errors import UsageError
from pabench.report import render
from pabench.run.read import Run, read_run
from pabench.run.schema import read_line, validate_run
from tests.support.report_data import conformance_lines, sweep_lines, write_run

RUNS = Path(__file__).resolve().parents[1] / "robust" / "runs"
WRONG = {
    "serving-figures-empty": "journal.jsonl:1: field figures.served is missing",
    "serving-without-figures": "journal.jsonl:1: field figures is missing",
    "sweep-huge-int": "journal.jsonl:1: tokens = 1000",
}
RIGHT = (
    "serving-ok",
    "serving-series-null-list",
    "stress-ok",
    "sweep-config-values-lists",
    "sweep-two-lines-one-id",
)
JUNK: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        1.5,
        10**400,
        "x",
        "inf",
        "",
        [],
        [1],
        ["x"],
        [[]],
        [{}],
        {},
        {"x": 1},
        {"mean": [1]},
    ),
)


def test_foreign_every_run_has_its_answer() -> None:
    assert {path.name for path in RUNS.iterdir()} == {*WRONG, *RIGHT}


@pytest.mark.parametrize("name", [*WRONG, *RIGHT])
def test_foreign_run_gives_a_page_or_one_line(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    code = run(["report", str(RUNS / name), "--out", str(page)])
    said = capfd.readouterr().err
    assert code == (4 if name in WRONG else 0)
    assert page.exists() == (name in RIGHT)
    if name in WRONG:
        assert said.count("\n") == 1
        assert f"{name}/{WRONG[name]}" in said
        assert len(said) < 400


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 200 + "1" + "}" * 200,
        "[" * 100_000,
        '{"kind": "check", "id": 9' + "9" * 5000 + "}",
        "\x00",
        "\ufeff{}",
    ],
)
def test_foreign_line_of_any_kind_is_refused_by_file_and_line(text: str, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", "sweep", sweep_lines(batches=(8,))[:1])
    with (folder / "journal.jsonl").open("a", encoding="utf-8") as journal:
        journal.write(text + "\n")
    with pytest.raises(UsageError, match=r"journal\.jsonl:2: ") as caught:
        read_run(folder)
    assert "\n" not in str(caught.value)


def test_foreign_run_says_which_items_stand_twice(tmp_path: Path) -> None:
    lines = conformance_lines()
    folder = write_run(tmp_path / "run", "conformance", [*lines, lines[0]])
    assert "1 item stand more than once" in render.render_html([read_run(folder)])
    assert "2 cells stand in more" not in render.render_html([read_run(RUNS / "sweep-two-lines-one-id")])
    assert "1 cell stand in more than one place" in render.render_html(
        [read_run(RUNS / "sweep-two-lines-one-id")]
    )


def answers() -> dict[str, Any]:
    tokens = {
        "token": [3, 4],
        "dense": [3, 5],
        "margin": [1.0, 0.5],
        "error": [0.1, 0.0],
        "noise": [0.1, 0.1],
    }
    moved = [{"why": "write", "pages": [[1, 2, 8]]}]
    return {
        "kind": "model",
        **{"id": "a", "model": "m", "subject": "rawkernel", "allocator": "scan", "dtype": "float16"},
        **{"device": "emulated", "status": "ok", "page_size": 8, "ratios": [0.5, "nan", None]},
        "prompts": [{"text": "hello", "tokens": 2}],
        "answers": [{"text": "world", "prompt": 0, "answer": 0, "parted": 1, **tokens}],
        "steps": [
            {"step": 0, "tables": {"p0": [1, -1]}, "preempted": None, "copied": []},
            {"step": 1, "tables": {"p0": [2, 3], "p1": [3]}, "preempted": 1, "copied": moved},
        ],
    }


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if place:
        yield place
    items = (
        value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    )
    for key, item in items:
        yield from places(item, (*place, key))


def changed(value: Any, place: tuple[Any, ...], junk: Any) -> Any:
    value = copy.deepcopy(value)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    if junk is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = junk
    return value


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    lines = (folder / "journal.jsonl").read_text().splitlines()
    return json.loads((folder / "run.json").read_text()), [json.loads(line) for line in lines]


def sources() -> dict[str, tuple[dict[str, Any], list[dict[str, Any]]]]:
    found = {name: read(RUNS / name) for name in ("serving-ok", "stress-ok", "sweep-two-lines-one-id")}
    record = found["serving-ok"][0]
    found["model"] = {**record, "kind": "model"}, [answers()]
    found["conformance"] = {**record, "kind": "conformance"}, conformance_lines()[:3]
    return found


@pytest.mark.parametrize(
    "name", ["serving-ok", "stress-ok", "sweep-two-lines-one-id", "model", "conformance"]
)
def test_foreign_value_of_any_kind_is_refused_or_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value in turn replaced by some of each kind: what the schema lets through makes a page."""
    monkeypatch.setattr(render, "charts_missing", lambda: "left out here")
    record, lines = sources()[name]
    known, *rest = (read_line(line, "journal.jsonl", schema=1) for line in lines)
    draw, shown, refused = random.Random(1), 0, 0
    for place in places({"run": record, "line": lines[0]}):
        if len(place) < 2:
            continue
        for junk in draw.sample([*JUNK, ...], 4):
            both = changed({"run": record, "line": lines[0]}, place, junk)
            try:
                validate_run(both["run"], "run.json")
                other = (read_line(both["line"], "journal.jsonl:1", schema=1), *rest)
            except UsageError:
                refused += 1
                continue
            run_of = [
                Run(path=Path("x"), record=both["run"], records=other, torn=False),
                Run(path=Path("y"), record=record, records=(known, *rest), torn=False),
            ]
            assert "</html>" in render.render_html(run_of), (place, junk)
            shown += 1
    assert shown > 20
    assert refused > 20
