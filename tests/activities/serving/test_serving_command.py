# SPDX-License-Identifier: Apache-2.0
"""pabench serving: from the options to the run directory, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.cli.main import run
from pabench.resources import resource_dir
from pabench.run.read import read_run
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.table import ALLOCATORS

ROOT = Path(__file__).resolve().parents[3]
KERNELS = resource_dir("kernels_cuda")
RAW = ROOT / ".." / "shared" / "traces"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
    f"2023-11-16 18:00:{at:02d}.0,{90 + at},{5 + at % 7}\n" for at in range(40)
)
SMALL = ("--pool-slots", "1024", "--max-seqs", "8", "--requests", "30")
LENGTHS = ("--lengths", "uniform:low=1,high=60", "--outputs", "fixed:len=9")


def lines(out: Path) -> list[dict[str, Any]]:
    """Flat records, and their figures once more in an object of their own."""
    return [
        {**record.flat(), "figures": {name: figure.value for name, figure in record.figures.items()}}
        for record in read_run(out).records
    ]


def trace(tmp_path: Path, text: str = AZURE) -> str:
    path = tmp_path / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_serving_command_compares_allocators_and_page_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = ("--allocator", "host", "--allocator", "buddy", "--page-sizes", "8,16", "--out", str(out))
    assert run(["serving", *LENGTHS, *SMALL, *options]) == 0
    shown = capsys.readouterr().out
    assert "recompute" in shown
    found = lines(out)
    assert [(line["allocator"], line["page_size"]) for line in found] == [
        *(("host", 8), ("host", 16), ("buddy", 8), ("buddy", 16))
    ]
    assert {line["figures"]["served"] for line in found} == {30}
    assert all(line["provenance"]["served"] == "counted" for line in found)
    assert all(line["provenance"]["host_s"] == "host" for line in found)
    with np.load(out / "columns" / f"{found[0]['id']}.npz") as columns:
        assert columns["request_generated"].tolist() == [9] * 30
        assert columns["step_clock_s"].size == found[0]["figures"]["steps"]
        assert np.isfinite(columns["request_finish_s"]).all()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "What does a server make of it?" in page
    assert "PASS" in page
    record = read_run(out).record
    assert record["kind"] == "serving"
    assert (record["status"], record["exit_code"]) == ("finished", 0)
    assert record["config"]["num_requests"] == 30


def test_serving_command_with_a_model_has_latencies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    limits = ("--ttft-limit-ms", "500", "--tpot-limit-ms", "50")
    assert (
        run(["serving", "--trace", trace(tmp_path), "--executor", "model", *limits, "--out", str(out)]) == 0
    )
    assert "TTFT p50 ms" in capsys.readouterr().out
    (line,) = lines(out)
    assert line["provenance"]["ttft_s_p50"] == "modelled"
    # one request a second: each is alone, and the clock follows the trace
    assert 39 < line["figures"]["span_s"] < 40
    assert line["figures"]["goodput_per_s"] == pytest.approx(40 / line["figures"]["span_s"])
    assert line["page_model"]["low"] <= line["page_model"]["best"] <= line["page_model"]["high"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Time to first token" in page
    assert "Best page size" in page


def test_serving_command_calibration_replaces_constants(tmp_path: Path) -> None:
    times = []
    for fixed in (0.0, 0.5):
        (tmp_path / "c.json").write_text(json.dumps({"fixed_cost_s": fixed}), encoding="utf-8")
        out = tmp_path / f"run{fixed}"
        options = ("--executor", "model", "--calibration", str(tmp_path / "c.json"), "--out", str(out))
        assert run(["serving", *LENGTHS, *SMALL, *options]) == 0
        (line,) = lines(out)
        times.append((line["figures"]["span_s"], line["figures"]["steps"]))
    assert times[1][0] - times[0][0] == pytest.approx(0.5 * times[0][1], rel=1e-6)


def test_serving_command_prefix_cache_hits(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--prefixes", "system:tokens=64", "--prefix-cache", "--out", str(out))
    assert run(["serving", *LENGTHS, *SMALL, *options]) == 0
    (line,) = lines(out)
    assert line["figures"]["hit_tokens"] == 64 * (30 - 8)


def test_serving_command_kernel_executor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    lengths = ("--lengths", "uniform:low=1,high=12", "--outputs", "fixed:len=4", "--requests", "12")
    options = ("--executor", "kernel", "--device", "emulated", "--allocator", "scan", "--out", str(out))
    assert run(["serving", *lengths, *options]) == 0
    (line,) = lines(out)
    assert line["kernel"]["launches"] == line["figures"]["steps"]
    assert 0 < line["kernel"]["max_ratio"] <= 1
    assert "steps decoded by the kernel" in capsys.readouterr().out


def test_serving_command_unsupported_is_said_and_others_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = ("--allocator", "buddy", "--allocator", "host", "--prefixes", "fork:n=2", "--out", str(out))
    assert run(["serving", *LENGTHS, *SMALL, *options]) == 0
    assert [line["status"] for line in lines(out)] == ["unsupported", "passed"]
    assert "buddy offers no fork" in capsys.readouterr().out
    alone = ("--allocator", "buddy", "--prefixes", "fork:n=2", "--out", str(tmp_path / "none"))
    assert run(["serving", *LENGTHS, *SMALL, *alone]) == 5


def test_serving_command_counts_what_never_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = AZURE + "2023-11-16 18:01:00.0,5000,5\n2023-11-16 18:01:01.0,0,5\n2023-11-16 18:01:02.0,5,0\n"
    out = tmp_path / "run"
    assert run(["serving", "--trace", trace(tmp_path, text), "--pool-slots", "1024", "--out", str(out)]) == 0
    (line,) = lines(out)
    assert line["figures"]["served"] == 40
    assert line["figures"]["skipped"] == 3
    assert line["skip_reasons"] == {"never fits the pool": 1, "has no prompt or asks for no output": 2}
    shown = capsys.readouterr().out
    assert "1 requests skipped: never fits the pool" in shown
    out = tmp_path / "none"
    assert run(["serving", "--trace", trace(tmp_path, text), "--pool-slots", "50", "--out", str(out)]) == 5
    (line,) = lines(out)
    assert line["status"] == "unsupported"
    said = "no request could be served: never fits the pool (41), has no prompt or asks for no output (2)"
    assert line["reason"] == said
    assert said in capsys.readouterr().out
    assert "NOTHING RAN" in (out / "report.html").read_text(encoding="utf-8")


def test_serving_command_oracle_mode_saves_a_history_that_replays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = HostAllocator.free

    def leaky(self: HostAllocator, sequences: Sequence[int]) -> None:
        long = sum(self._lengths[sequence] > 40 for sequence in sequences)
        right(self, sequences)
        self._ring.take(int(long))

    monkeypatch.setattr(HostAllocator, "free", leaky)
    out = tmp_path / "a run"
    assert run(["serving", *LENGTHS, *SMALL, "--check-steps", "5", "--in-process", "--out", str(out)]) == 1
    (line,) = lines(out)
    assert line["status"] == "failed"
    # a shell reads the folder as one word
    assert line["failure"]["replay"] == f"pabench replay '{out / line['failure']['path']}'"
    assert "invariant 1" in line["reason"]
    assert "pabench replay" in capsys.readouterr().out
    folder = out / line["failure"]["path"]
    case = json.loads((folder / "case.json").read_text(encoding="utf-8"))
    assert (case["check"], case["subject"]) == ("allocator-invariants", "host")
    assert len(case["case"]["operations"]) <= 12
    assert run(["replay", str(folder), "--in-process"]) == 1
    assert "invariant" in capsys.readouterr().out
    monkeypatch.setattr(HostAllocator, "free", right)
    assert run(["replay", str(folder), "--in-process"]) == 0
    assert "FAIL" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--executor", "gpu"), "executor = 'gpu': must be one of null, model, kernel"),
        (("--scheduler", "fcfss"), "did you mean 'fcfs'"),
        (("--allocator", "hots"), "did you mean 'host'"),
        (("--page-sizes", "0"), "--page-sizes"),
        (("--page-sizes", "4096"), "page_size = 4096: must be at most the pool, 1024 slots"),
        (("--arrivals", "poisson:rate=0"), "must be at least 1e-06"),
        (("--arrivals", "trace"), "has no times"),
        (("--prefixes", "some"), "unknown prefixes 'some'"),
        (("--lengths", "list:"), "item 1 is ''"),
        (("--trace", "none.csv"), "cannot be read"),
        (("--device", "nonsense"), "unknown device 'nonsense'"),
        (("--kernels", "/nowhere"), "must be a folder like kernels_cuda"),
        (("--kernels", str(KERNELS)), "no kernel runs here"),
        (("--checked",), "--checked: pabench serving has no use for it"),
        (("--inputs", "a.npz"), "--inputs: pabench serving has no use for it"),
        (("--budget", "x"), "--budget 'x': must be a time such as 540s, 9m or 1.5h"),
        (("--seed", "-1"), "--seed '-1': must be a whole number"),
        (("--prefixes", "fork:n=4", "--max-seqs", "3"), "answers of a prompt = 4: must be at most"),
        (("--watermark", "2"), "watermark = 2.0: must be at most 0.9"),
        (("--watermark", "nan"), "watermark = nan: must be finite"),
        (("--pool-gib", "1"), "not both"),
        (("--step-ms", "-1"), "must be at least"),
        (("--calibration", "c.json"), "--calibration is for --executor model"),
        (("--ttft-limit-ms", "0"), "must be above 0"),
        (("--model", "gpt-9"), "unknown model"),
        (("--dtype", "int3"), "unknown dtype"),
        (("--reproduce", "r.md"), "--reproduce goes with --seed alone"),
        (("--prefix-cache", "--check-steps", "3"), "has no place in a history"),
    ],
)
def test_serving_command_refuses_in_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["serving", "--pool-slots", "1024", *options, "--out", "run"]) == 4
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content",
    ["[1, 2]", '{"speed": 1}', '{"bandwidth": "fast"}', '{"bandwidth": -1}', "{", '{"bandwidth": 0}'],
)
def test_serving_command_refuses_bad_calibration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    (tmp_path / "c.json").write_text(content, encoding="utf-8")
    options = ("--executor", "model", "--calibration", str(tmp_path / "c.json"))
    assert run(["serving", *options, "--out", str(tmp_path / "run")]) == 4
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", sorted(RAW.glob("*_*.*")), ids=lambda path: path.stem)
def test_serving_command_runs_every_trace_beside_the_checkout(tmp_path: Path, path: Path) -> None:
    out = tmp_path / "run"
    assert run(["serving", "--trace", str(path), "--requests", "400", "--out", str(out)]) == 0
    (line,) = lines(out)
    assert line["figures"]["served"] + line["figures"]["skipped"] == 400


def test_serving_command_traces_are_there() -> None:
    if not list(RAW.glob("*_*.*")):
        pytest.skip("no traces beside the checkout (they are not part of the project)")
    assert len(list(RAW.glob("*_*.*"))) == 5


@pytest.mark.parametrize("what", ["schedulers", "arrivals", "prefixes"])
def test_serving_lists(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", what, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) >= 5
    if what == "schedulers":
        assert {row["allocator"] for row in rows} <= set(ALLOCATORS)


@pytest.mark.parametrize("executor", ["null", "model"])
@pytest.mark.parametrize("name", ["h100", "cuda:0", "", "EMULATED"])
def test_serving_command_refuses_a_device_that_is_none(
    name: str, executor: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["serving", *LENGTHS, *SMALL, "--executor", executor, "--device", name]
    assert run([*words, "--out", str(tmp_path / "run")]) == 4
    assert f"unknown device {name!r}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--lengths", "--outputs", "--arrivals", "--prefixes"])
def test_serving_command_refuses_an_empty_spec(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serving", *SMALL, option, "", "--out", str(tmp_path / "run")]) == 4
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("allocator", "said"), [("host", "nothing here runs a kernel"), ("scan", "emulated CUDA device")]
)
def test_serving_command_records_the_device_in_use(allocator: str, said: str, tmp_path: Path) -> None:
    words = ["serving", *LENGTHS, *SMALL, "--allocator", allocator]
    words += ["--device", "emulated"] if allocator == "scan" else []
    assert run([*words, "--requests", "3", "--out", str(tmp_path / "run")]) == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["provenance"]["device"]["name"] == "emulated"
    assert said in record["provenance"]["device"]["description"]
