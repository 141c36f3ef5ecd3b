# SPDX-License-Identifier: Apache-2.0
"""A page of every kind that pabench writes, most of them of real runs: small ones, made here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from pabench.activities.sweep.operation import UNITS, Operation
from pabench.checks.spec_version import read_spec
from pabench.checks.suite import BY_ID
from pabench.cli.main import run
from pabench.report.index import render_index
from pabench.report.render import render_report
from pabench.run.files import json_line
from pabench.run.record import Status
from tests.house.test_docs import own_kernel
from tests.report.test_foreign_runs import answers
from tests.support.report_data import check, failed_cell, failed_check, sweep_lines, write_run


def _ran(*words: str | Path, code: int = 0) -> None:
    found = run([str(word) for word in words])
    assert found == code, f"{words}: exit code {found}"


def sweep(folder: Path) -> Path:
    """Cells right and wrong, and operations beside them."""
    lines = [*sweep_lines(), failed_cell(64, "azure-conv", 8)]
    made = write_run(folder / "sweep", "sweep", lines, exit_code=1)
    return render_report([made], folder / "sweep.html")


def operations(folder: Path) -> Path:
    """Operations of a GPU beside attention, one of them wrong."""
    figures = {"run_ns": [1e5, 1.01e5], "achieved_gbps": 3000.5, "copy_fraction": 0.71}
    words = dict.fromkeys(figures, "measured")
    records = [
        Operation(name=name, size=4096, device="cuda")
        .answered(Status.PASSED, figures=(figures, words))
        .record
        for name in UNITS
    ]
    wrong = Operation(name="append", size=8, device="cuda")
    records.append(wrong.answered(Status.FAILED, "3 of 8 numbers that append left are wrong").record)
    made = write_run(folder / "operations", "sweep", [], schema=2, exit_code=1)
    (made / "journal.jsonl").write_text("".join(f"{json_line(one.to_line())}\n" for one in records))
    return render_report([made], folder / "operations.html")


def failing(folder: Path) -> Path:
    """A real failing kernel: a card with the page-table drawing of its case."""
    wrong = own_kernel().replace("in enumerate(kv_lens):", "in enumerate(kv_lens - (kv_lens > 1)):")
    (folder / "my_kernel.py").write_text(wrong, encoding="utf-8")
    words = ("--profile", "quick", "-k", "decode[normal]", "--device", "emulated", "--jobs", "1")
    place = f"{folder / 'my_kernel.py'}:decode"
    _ran("conformance", "--backend", place, *words, "--out", folder / "failing", code=1)
    return folder / "failing" / "report.html"


def serving(folder: Path) -> Path:
    """A server that was really simulated, over two allocators."""
    words = ("--lengths", "azure-conv", "--requests", "60", "--pool-slots", "65536", "--in-process")
    _ran("serving", *words, "--allocator", "host", "--allocator", "buddy", "--out", folder / "serving")
    return folder / "serving" / "report.html"


def stress(folder: Path) -> Path:
    """Stress of an allocator."""
    words = (
        "--max-requests",
        "64",
        "--pages",
        "256",
        "--rounds",
        "4",
        "--device",
        "emulated",
        "--in-process",
    )
    _ran("stress", "--allocator", "host", *words, "--out", folder / "stress")
    return folder / "stress" / "report.html"


def model(folder: Path) -> Path:
    """Answers of a language model, one of which parted."""
    made = write_run(folder / "model", "model", [answers()], exit_code=6)
    return render_report([made], folder / "model.html")


def compare(folder: Path) -> Path:
    """A run that lost a check, beside its base."""
    base = write_run(folder / "base", "conformance", [check("mine", "decode"), check("mine", "append")])
    lines = [
        failed_check("mine", "decode"),
        check("mine", "append", status="unsupported", reason="no append"),
    ]
    new = write_run(folder / "new", "conformance", lines, exit_code=1)
    _ran("compare", base, new, "--html", folder / "compare.html", code=1)
    return folder / "compare.html"


def scoreboard(folder: Path) -> Path:
    """Two packages, one of a kernel that fails."""
    packages = []
    for name, status in (("good", "passed"), ("bad", "failed")):
        spec = read_spec("1.0")
        asked = [one for one in spec.questions if BY_ID[one].subject_kind == "backend"]
        lines = [check(name, one, status=status if one == "decode[normal]" else "passed") for one in asked]
        made = write_run(folder / f"run-{name}", "conformance", lines)
        record = json.loads((made / "run.json").read_text())
        record["config"] |= {"spec": "1.0", "profile": "default", "select": None}
        (made / "run.json").write_text(json.dumps(record))
        packages.append(folder / f"{name}.zip")
        _ran("submit", made, "--out", packages[-1], "--statement", f"A {name} kernel & <i>its</i> words")
    _ran("scoreboard", *packages, "--out", folder / "scoreboard.html")
    return folder / "scoreboard.html"


def weather(folder: Path) -> Path:
    """A package of another project in two versions."""
    runs = []
    for version, status in (("0.32.0", "passed"), ("0.33.0", "failed")):
        lines = [check("vllm-triton", "decode[normal]", version=version)]
        lines.append(check("vllm-triton", "decode[window]", version=version, status=status, reason="wrong"))
        runs.append(write_run(folder / f"weather-{version}", "conformance", lines))
    _ran("weather", *runs, "--out", folder / "weather.html")
    return folder / "weather.html"


def index(folder: Path) -> Path:
    """A folder of runs, right and wrong."""
    inner = folder / "runs"
    write_run(inner / "a", "conformance", [check("mine", "decode")])
    write_run(inner / "b", "conformance", [failed_check("mine", "decode")], exit_code=1)
    write_run(inner / "c", "sweep", sweep_lines())
    return render_index(inner, inner / "index.html")


PAGES: dict[str, Callable[[Path], Path]] = {
    made.__name__: made
    for made in (
        *(sweep, operations, failing, serving, stress, model),
        *(compare, scoreboard, weather, index),
    )
}
"""Name to what writes the page into a folder that is its own, and returns where."""
