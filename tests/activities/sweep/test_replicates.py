# SPDX-License-Identifier: Apache-2.0
"""Replicates of a sweep: fresh processes, backends in turns, a journal line each, resumed by replicate."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.config import resolve_config
from pabench.activities.sweep.grid import REPLICATES, in_turns, replicates_of
from pabench.activities.sweep.operation import Operation
from pabench.cli.main import run
from pabench.errors import UsageError
from pabench.problem import Batch, Problem
from pabench.run.read import read_run
from pabench.run.replicates import by_replicate

LOGGED = """
import os
from pathlib import Path
from typing import Any
from tests.support.numpy_backend import NumpyBackend

class {name}(NumpyBackend):
    name = "{name}"
    def plan(self, tensors):
        with Path(__file__).with_suffix(".log").open("a") as log:
            log.write(f"{{os.getpid()}} {{tensors.case.problem.page_size}}\\n")
        return super().plan(tensors)
"""


def cells(*backends: str) -> list[Cell]:
    return [
        Cell(
            backend=backend,
            device="cuda",
            gpu="h200",
            problem=Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=page_size),
            batch=Batch(kv_lens=(20,)),
            lengths="list:20",
            seed=0,
            kv_layout="NHD",
            interleaved=False,
        )
        for backend in backends
        for page_size in (8, 16)
    ]


def test_in_turns_takes_the_backends_of_a_cell_after_one_another_and_the_next_round_the_other_way() -> None:
    asked = cells("a", "b", "c")
    first = Operation(name="append", size=8, device="cuda")
    order = [place(one) for one in in_turns(asked, 3, [first])]
    forth = [(page_size, backend) for page_size in (8, 16) for backend in "abc"]
    back = [(page_size, backend) for page_size in (8, 16) for backend in "cba"]
    rounds = [(number, [("append",), *turn]) for number, turn in ((1, forth), (2, back), (3, forth))]
    assert order == [(number, *one) for number, turn in rounds for one in turn]
    assert [place(one) for one in in_turns(asked, 1, [first])] == [(None, *one) for one in rounds[0][1]]


def place(item: Cell | Operation) -> tuple[Any, ...]:
    if isinstance(item, Operation):
        return item.replicate, item.name
    return item.replicate, item.problem.page_size, item.backend


def test_cells_of_replicates_ask_the_same_question_under_names_of_their_own() -> None:
    one = cells("a")[0]
    third = replace(one, replicate=3)
    assert (third.question, third.id) == (one.id, f"{one.id}-3")
    assert "process 3" in third.label
    assert third.blank("cuda").label == one.label


def test_replicates_are_five_on_a_gpu_and_none_where_nothing_differs_from_process_to_process() -> None:
    plain = resolve_config({"page-sizes": "8"}, backends=["rawkernel"])
    assert replicates_of(plain, "cuda", apart=True) == REPLICATES == 5
    assert replicates_of(plain, "emulated", apart=True) == replicates_of(plain, "cuda", apart=False) == 1
    some = replace(plain, replicates=3)
    assert replicates_of(some, "emulated", apart=True) == 3
    with pytest.raises(UsageError, match="--replicates 3: a sweep that is checked: its counts do not vary"):
        replicates_of(replace(some, checked=True), "emulated", apart=True)
    with pytest.raises(UsageError, match="--replicates 3: a sweep that has no processes with --in-process"):
        replicates_of(some, "emulated", apart=False)
    for wrong in ("0", "101", "five"):
        with pytest.raises(UsageError, match=f"--replicates: '{wrong}' must be a whole number from 1 to 100"):
            resolve_config({"page-sizes": "8", "replicates": wrong}, backends=["rawkernel"])


@pytest.mark.slow
def test_replicates_are_fresh_processes_and_resume_with_what_the_journal_lacks(tmp_path: Path) -> None:
    out, names, places = tmp_path / "out", ("First", "Second"), list[str]()
    for name in names:
        file = tmp_path / f"{name.lower()}.py"
        file.write_text(LOGGED.format(name=name))
        places += ["--backend", f"{file}:{name}"]
    asked = [
        *(
            "sweep",
            "--page-sizes",
            "8,16",
            "--lengths",
            "fixed:len=20",
            "--batch",
            "1",
            "--device",
            "emulated",
        ),
        *("--heads", "2:1", "--head-dim", "16", "--dtypes", "float32", *places, "--replicates", "3"),
    ]
    assert run([*asked, "--out", str(out)]) == 0
    assert read_run(out).record["config"]["replicates"] == 3
    pids: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        for row in (tmp_path / f"{name.lower()}.log").read_text().splitlines():
            pid, page_size = row.split()
            if pid not in pids[name, page_size]:
                pids[name, page_size].append(pid)
    # three processes a cell, and each times all cells of its backend
    assert len(pids) == 4
    for name in names:
        assert pids[name, "8"] == pids[name, "16"]
        assert len(pids[name, "8"]) == 3
    journal = out / "journal.jsonl"
    lines = [json.loads(one) for one in journal.read_text().splitlines()]
    assert [
        (one["details"]["replicate"], one["subject"]["name"].rpartition(":")[2]) for one in lines[:8]
    ] == [
        *[(1, "First"), (1, "Second")] * 2,
        *[(2, "Second"), (2, "First")] * 2,
    ]
    # killed after the first round and a bit: a line that was cut short is asked again with the rest
    whole = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(whole[:5]) + whole[5][:40])
    assert run(["sweep", "--resume", "--out", str(out)]) == 0
    again = [json.loads(one)["id"] for one in journal.read_text().splitlines()]
    assert again == [one["id"] for one in lines]
    records = read_run(out).records
    assert len(records) == 4
    for record in records:
        series = by_replicate(record, "run_ns")
        assert [len(one) for one in series] == [5, 5, 5]
        assert record.figures["run_ns"].value == [sample for one in series for sample in one]
    assert run(["sweep", "--resume", "--replicates", "2", "--out", str(out)]) == 4
