# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pabench.cli.main import run
from tests.support.report_data import check, write_run


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of this test's own."""
    monkeypatch.setenv("PABENCH_BASELINES", str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def good(tmp_path: Path) -> str:
    """A run with one check that passed."""
    return str(write_run(tmp_path / "good", "conformance", [check("mine", "decode")]))


@pytest.fixture
def bad(tmp_path: Path) -> str:
    """A run with the same check failed."""
    lines = [check("mine", "decode", status="failed", reason="wrong")]
    return str(write_run(tmp_path / "bad", "conformance", lines, exit_code=1))


def test_baseline_is_compared_with_after_its_run_is_gone(
    good: str, bad: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", good, "--save", "main"]) == 0
    assert f"kept as baseline main: {store / 'main'}" in capsys.readouterr().out
    shutil.rmtree(good)
    assert run(["compare", bad, "--baseline", "main"]) == 1
    assert "NEWLY FAILING" in capsys.readouterr().out
    assert run(["compare", bad, "--save", "main", "--overwrite"]) == 0
    assert run(["compare", bad, "--baseline", "main"]) == 0
    # nothing is left beside it
    assert [path.name for path in store.iterdir()] == ["main"]


def test_baselines_are_listed(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "baselines"]) == 0
    assert capsys.readouterr().out == "none\n"
    run(["compare", good, "--save", "v1.0"])
    capsys.readouterr()
    assert run(["list", "baselines", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["name"], row["kind"], row["results"], row["subjects"]) == ("v1.0", "conformance", 1, ["mine"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["GOOD", "--save", "../out"], "--save '../out': must be 1 to 80 letters"),
        (["GOOD", "--save", "main"], "--save main: there is such a baseline already"),
        (["EMPTY", "--save", "other"], "holds no result"),
        (["GOOD", "--baseline", "mian"], "unknown baseline 'mian'; did you mean 'main'?"),
        (["GOOD", "GOOD", "--baseline", "main"], "2 runs given: must be one run"),
        (["GOOD"], "1 runs given: must be two runs, BASE and NEW"),
        (["GOOD", "--overwrite"], "--overwrite replaces the baseline of --save"),
        (["GOOD", "--save", "a", "--baseline", "main"], "--save compares nothing"),
        (["nowhere", "--save", "a"], "nowhere does not exist"),
    ],
)
def test_baseline_refuses(
    words: list[str], said: str, good: str, tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = write_run(tmp_path / "empty", "conformance", [])
    run(["compare", good, "--save", "main"])
    before = sorted(store.rglob("*"))
    named = {"GOOD": good, "EMPTY": str(empty)}
    assert run(["compare", *(named.get(word, word) for word in words)]) == 4
    assert said in capsys.readouterr().err
    assert sorted(store.rglob("*")) == before


def test_baseline_of_a_run_that_still_runs_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    going = write_run(tmp_path / "going", "conformance", [check("mine", "decode")])
    record = json.loads((going / "run.json").read_text())
    record |= {"status": "running", "exit_code": None, "finished": None}
    (going / "run.json").write_text(json.dumps(record))
    assert run(["compare", str(going), "--save", "main"]) == 4
    assert "is not finished" in capsys.readouterr().err


def test_baseline_store_that_cannot_be_written_is_the_machine(
    good: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write_text("a file")
    assert run(["compare", good, "--save", "main"]) == 7
    assert "cannot keep a baseline in" in capsys.readouterr().err
