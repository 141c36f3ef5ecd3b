# SPDX-License-Identifier: Apache-2.0
"""``pabench model`` as a user calls it: a tiny model in place of the real one, and the real one."""

from __future__ import annotations

import importlib.util
import json
from functools import partial
from pathlib import Path

import pytest

from pabench.activities.model import plug, smollm2
from pabench.cli.main import run
from pabench.errors import EnvironmentRefused
from pabench.run.read import read_run
from pabench.run.record import Status
from pabench.workloads.captured import read_capture
from tests.support.late_values import late_values
from tests.support.model_work import TinyModelPlug
from tests.support.tiny_model import TinyModel

PROMPT = "What is the capital of France?"
SHORT = ["--device", "emulated", "--page-sizes", "8", "--max-new-tokens", "3", "--samples", "1"]
MISSING = [name for name in (*smollm2.NEEDED, smollm2.PACKAGE) if importlib.util.find_spec(name) is None]
needs_model = pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: {smollm2.INSTALL}")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "load_smollm2", lambda weights=None: TinyModel())


@pytest.mark.usefixtures("tiny")
def test_model_command_writes_all_that_it_promises(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--prompt", "the quick <b>brown</b> fox", "--prompt", "the quick <b>brown</b> dog"]
    words += ["--device", "emulated", "--page-sizes", "8,16", "--max-new-tokens", "6", "--preempt-step", "5"]
    words += ["--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html")]
    words += ["--capture", str(tmp_path / "a.npz"), "--layers", "1", "--out", str(tmp_path / "out")]
    words += ["--in-process"]
    assert run(["model", *words]) == 0
    said = capsys.readouterr().out
    assert said.count("equal to dense") == 8
    assert said.count("1 preempted by recompute") == 2
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["exit_code"] == 0
    assert (told["totals"]["items"], told["totals"]["passed"]) == (2, 2)
    found = [record.flat() for record in read_run(tmp_path / "out").records]
    assert [(line["status"], line["page_size"]) for line in found] == [("passed", 8), ("passed", 16)]
    assert [record.to_line() for record in read_run(tmp_path / "out").records] == told["records"]
    assert f"captured: 62 tokens of 2 sequences in layers 1: {tmp_path / 'a.npz'}" in said
    page = (tmp_path / "a.html").read_text()
    assert page == (tmp_path / "out" / "report.html").read_text()
    assert "<b>brown" not in page
    assert "the quick &lt;b&gt;brown&lt;/b&gt; fox" in page
    assert "2 model runs made 48 tokens, all as dense attention has them" in page
    assert "was preempted" in page
    assert 'class="page shared"' in page
    assert 'class="page copied"' in page
    assert read_capture(tmp_path / "a.npz").lengths == (31, 31)


@pytest.mark.usefixtures("tiny")
def test_model_command_fails_with_layer_and_position(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        *SHORT,
        "--prompt",
        "a prompt of sixty-four bytes, so that a step of decode has a tile",
        "--page-sizes",
    ]
    words += ["16", "--kernels", str(late_values(tmp_path)), "--out", str(tmp_path / "out"), "--in-process"]
    assert run(["model", *words]) == 1
    assert "page size 16: FAILED: layer 0, position 65 of prompt 0 answer 0: " in capsys.readouterr().out
    assert "layer 0, position 65" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--page-sizes", "0"], 4, "--page-sizes"),
        (["--prompt", " "], 4, "prompt 0"),
        (["--prompt", "x" * 600], 4, "takes at most 512 tokens"),
        (["--pool-pages", "2"], 4, "pool_pages = 2: prompt 0 of 30 tokens"),
        (["--max-new-tokens", "0"], 4, "max_new_tokens = 0"),
        (["--samples", "0"], 4, "samples = 0"),
        (["--temperature", "nan"], 4, "temperature = nan"),
        (["--dtype", "float8"], 4, "unknown dtype 'float8'"),
        (["--dtype", "float32"], 5, "rawkernel-mma: no dtype float32"),
        (["--allocator", "scam"], 4, "did you mean 'scan'"),
        (["--allocator", "ticket", "--samples", "2"], 5, "offers no fork"),
        (["--scheduler", "nobody"], 4, "unknown scheduler 'nobody'"),
        (["--scheduler", "swap"], 5, "scan"),
        (["--backend", "nobody"], 4, "unknown backend 'nobody'"),
        (["--capture", "no/such/folder/a.npz"], 4, "must be a file in an existing folder"),
        (["--capture", "a.npz", "--layers", "2"], 4, "must be distinct layers of 0 to 1"),
        (["--layers", "first"], 4, "must be whole numbers"),
        (["--kernels", "/nowhere"], 4, "must be a folder like kernels_cuda"),
        (["--device", "abacus"], 4, "unknown device 'abacus'"),
        (["--inputs", "a.npz"], 4, "--inputs: pabench model has no use for it"),
        (["--checked"], 4, "--checked: pabench model has no use for it"),
    ],
)
def test_model_command_refuses_in_one_line(
    words: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["model", *SHORT, "--out", "out", "--in-process", *words]) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if "loading weights" not in line]
    assert len(errors) == 1
    assert said in errors[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lacking", [smollm2.PACKAGE, *smollm2.NEEDED])
def test_model_needs_its_packages(
    lacking: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == lacking else found(name))
    (tmp_path / "a.gguf").write_bytes(smollm2.MAGIC)
    words = [] if lacking == smollm2.PACKAGE else ["--weights", str(tmp_path / "a.gguf")]
    assert run(["model", *SHORT, *words, "--in-process", "--out", str(tmp_path / "out")]) == 7
    error = capsys.readouterr().err.splitlines()[-1]
    assert smollm2.INSTALL in error
    assert "not installed" in error
    assert not (tmp_path / "out").exists()


def test_model_file_must_be_there_and_be_one(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentRefused, match="is missing"):
        smollm2.load_smollm2(tmp_path / "none.gguf")
    (tmp_path / "other.gguf").write_bytes(b"PK\x03\x04")
    with pytest.raises(EnvironmentRefused, match=r"begins with b'PK.*must be b'GGUF'"):
        smollm2.load_smollm2(tmp_path / "other.gguf")


def with_bench(monkeypatch: pytest.MonkeyPatch, bench: str) -> None:
    """Let ``pabench model`` use a bench of the tests, in its worker process."""
    monkeypatch.setattr(plug, "Model", partial(TinyModelPlug, bench=bench))


def test_model_command_works_in_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_bench(monkeypatch, "TinyBench")
    out = tmp_path / "out"
    assert (
        run(["model", *SHORT, "--capture", str(tmp_path / "a.npz"), "--layers", "0", "--out", str(out)]) == 0
    )
    (record,) = read_run(out).records
    assert (record.status, record.details["model"]) == (Status.PASSED, "tiny")
    assert read_capture(tmp_path / "a.npz").layers == (0,)


def test_model_command_goes_on_behind_what_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_bench(monkeypatch, "BrokenBench")
    out = tmp_path / "out"
    words = ["--page-sizes", "8,16,32,64", "--deadline", "10", "--out", str(out)]
    assert run(["model", *SHORT, *words]) == 1
    found = read_run(out).records
    assert [str(record.status) for record in found] == ["crashed", "crashed", "hung", "passed"]
    assert (found[0].reason or "").startswith("ZeroDivisionError: no heads in _generate (model_work.py:")
    assert found[1].reason == "exited with status 3"
    assert "hung: no progress for 10 s" in (found[2].reason or "")
    assert "page size 16: CRASHED: exited with status 3" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert "of 4 model runs, 2 crashed and 1 hung" in page.lower()


@needs_model
@pytest.mark.slow
def test_model_says_paris(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--prompt", PROMPT, "--page-sizes", "8,16,32", "--device", "emulated"]
    assert run(["model", *words, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert said.count("answer 0: The capital of France is Paris.  [32 tokens, equal to dense") == 3


@needs_model
@pytest.mark.slow
def test_model_names_layer_and_position_of_a_late_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--prompt", PROMPT, "--page-sizes", "16", "--samples", "1", "--device", "emulated"]
    kernels = ["--kernels", str(late_values(tmp_path)), "--out", str(tmp_path / "out")]
    assert run(["model", *words, *kernels]) == 1
    # the prompt has 37 tokens; the second tile of keys begins at token 64
    assert "FAILED: layer 0, position 64 of prompt 0 answer 0: " in capsys.readouterr().out


@needs_model
@pytest.mark.slow
def test_model_file_must_be_whole(tmp_path: Path) -> None:
    with smollm2.weights_file().open("rb") as whole:
        (tmp_path / "cut.gguf").write_bytes(whole.read(50_000_000))
    with pytest.raises(EnvironmentRefused, match="it may be cut") as caught:
        smollm2.load_smollm2(tmp_path / "cut.gguf")
    assert "\n" not in str(caught.value)
