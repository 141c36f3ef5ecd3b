# SPDX-License-Identifier: Apache-2.0
"""``pabench sweep`` from the command line to the run directory, with right and planted wrong backends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.activities.sweep.plug import kernels_digest
from pabench.cli.main import run
from pabench.errors import DeviceFault, EnvironmentRefused
from pabench.problem.tensors import Tensors
from pabench.run.directory import read_run
from pabench.subjects.backends import own
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.torch_sdpa import SdpaPlan, TorchSdpaBackend
from pabench.subjects.peers.named import NamedSubject

# in this process, where the registry has the stubs; test_isolation_sweep.py has the other way
SWEEP = ("sweep", "--in-process")
SMALL = (
    "--heads",
    "4:2",
    "--head-dim",
    "16",
    "--batch",
    "1,3",
    "--lengths",
    "fixed:len=40",
    "--lengths",
    "zipf:max=99",
)
PLANNED: list[tuple[int, ...]] = []


class Host:
    """A device for backends that launch nothing."""

    name = "emulated"
    description = "stub"

    def synchronize(self) -> None:
        """Nothing runs behind the host."""


class Counting(TorchSdpaBackend):
    """Right, and counts the batches it plans."""

    def plan(self, tensors: Tensors) -> SdpaPlan:
        PLANNED.append((tensors.case.problem.page_size, *tensors.case.batch.kv_lens))
        return super().plan(tensors)


class OneKeyShort(TorchSdpaBackend):
    """Wrong in one element of the last sequence when its cache is longer than a page."""

    def fetch(self, plan: SdpaPlan) -> AttentionOutput:
        result = super().fetch(plan)
        result.out[-1, 1, 3] += np.asarray(0.5, result.out.dtype)
        return result


class Crashing(TorchSdpaBackend):
    """Faults on pages of 16."""

    def run(self, plan: SdpaPlan) -> None:
        if plan.problem.page_size == 16:
            raise DeviceFault("block 3, thread 5:\nbarrier not reached by all")
        super().run(plan)


class Raising(TorchSdpaBackend):
    """Raises what no one expects."""

    def run(self, plan: SdpaPlan) -> None:
        raise ZeroDivisionError("division by zero")


class Stopping(TorchSdpaBackend):
    """The user presses Ctrl-C in the third cell."""

    cells = 0

    def run(self, plan: SdpaPlan) -> None:
        if plan.problem.page_size == 8 and plan.q.shape[0] == 3:
            raise KeyboardInterrupt
        super().run(plan)


class Incapable(TorchSdpaBackend):
    """Takes float32 only."""

    capabilities = Capabilities(dtypes=frozenset({"float32"}))


class WithoutCompiler(TorchSdpaBackend):
    """Cannot work on this machine."""

    def plan(self, tensors: Tensors) -> SdpaPlan:
        raise EnvironmentRefused("no C++ compiler found", hint="install g++")


BACKENDS = (Counting, OneKeyShort, Crashing, Raising, Stopping, Incapable, WithoutCompiler)


def stub_report(runs: Sequence[Path], out: Path) -> Path:
    out.write_text(f"report of {len(runs)} runs")
    return out


@pytest.fixture(autouse=True)
def stubs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Backends of this file by name, a device without a compiler, a quick report, an empty folder."""
    module = types.ModuleType("stub_backends")
    for kind in BACKENDS:
        setattr(module, kind.__name__, kind)
        stub = NamedSubject(about="stub", place=f"stub_backends:{kind.__name__}")
        monkeypatch.setitem(own.OWN, kind.__name__.lower(), stub)
    monkeypatch.setitem(sys.modules, "stub_backends", module)
    monkeypatch.setattr("pabench.device.registry.open_device", lambda name, **options: Host())
    monkeypatch.setattr("pabench.report.render.render_report", stub_report)
    monkeypatch.chdir(tmp_path)
    PLANNED.clear()


def sweep(*words: str, backend: str = "counting", page_sizes: str = "8,16") -> int:
    return run([*SWEEP, "--page-sizes", page_sizes, *SMALL, "--backend", backend, "--out", "out", *words])


def journal(folder: str = "out") -> list[dict[str, Any]]:
    return list(read_run(Path(folder)).lines)


def record(folder: str = "out") -> dict[str, Any]:
    data: dict[str, Any] = json.loads(Path(folder, "run.json").read_text())
    return data


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("pabench: ")
    assert error.count("\n") == 1, error
    return error


def test_sweep_writes_run_journal_and_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep() == 0
    lines = journal()
    assert [(line["lengths"][:5], line["batch"], line["page_size"]) for line in lines] == [
        (family, batch, page) for family in ("fixed", "zipf:") for batch in (1, 3) for page in (8, 16)
    ]
    assert record()["status"] == "finished"
    assert record()["exit_code"] == 0
    assert record()["config"]["page-sizes"] == [8, 16]
    assert record()["command"].startswith("pabench sweep --in-process --page-sizes 8,16")
    assert Path("out/report.html").read_text() == "report of 1 runs"
    screen = capsys.readouterr()
    assert "report: out/report.html" in screen.out
    assert "8 cells: 8 passed" in screen.out
    assert "[8/8]" in screen.err


def test_sweep_line_holds_every_figure_with_its_provenance() -> None:
    assert sweep() == 0
    for line in journal():
        assert line["status"] == "passed"
        assert line["check"]["passed"]
        assert 0 < line["check"]["max_ratio"] <= 1
        assert len(line["plan_ns"]) == len(line["run_ns"]) == 5
        assert min(line["run_ns"]) > 0
        assert line["run_token_heads"] == 4 * line["tokens"]
        assert line["modelled_tokens_per_s"] == pytest.approx(line["batch"] / line["modelled_ns"] * 1e9)
        assert line["modelled_gpu"] == "H200"
        figures = {key for key, value in line.items() if isinstance(value, int | float | list)}
        axes = {"page_size", "batch", "seed", "head_dim", "interleaved", "duration_s"}
        assert (figures - axes) | {"modelled_bound"} == set(line["provenance"])
        assert line["modelled_bound"] == "launch"
        assert line["provenance"]["run_ns"] == "host"
        assert line["provenance"]["waste_tokens"] == "counted"
        assert line["provenance"]["modelled_ns"] == "modelled"


def test_sweep_known_batch_has_exact_fractions() -> None:
    words = [
        *SWEEP,
        "--page-sizes",
        "8,16,32",
        "--lengths",
        "list:100,250,17,1024,16,1",
        "--backend",
        "counting",
    ]
    assert run([*words, "--batch", "1,8", "--heads", "2", "--head-dim", "8", "--out", "out"]) == 0
    found = {line["page_size"]: (line["waste_tokens"], line["exact"]) for line in journal()}
    wanted = {8: (24, "3/179", "768/179"), 16: (48, "3/91", "384/91"), 32: (96, "3/47", "192/47")}
    assert found == {
        page: (
            waste,
            {
                "internal_fragmentation": share,
                "contiguous_fragmentation": "37/48",
                "efficiency_gain": gain,
            },
        )
        for page, (waste, share, gain) in wanted.items()
    }


def test_sweep_wrong_backend_fails_without_a_figure_of_speed(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(backend="onekeyshort") == 1
    for line in journal():
        assert line["status"] == "failed"
        assert line["num_pages"] > 0
        for figure in ("plan_ns", "run_ns", "run_token_heads", "modelled_ns", "modelled_bound"):
            assert line[figure] is None
            assert figure not in line["provenance"]
        assert not line["check"]["passed"]
        assert "query head 1, dim 3" in line["reason"]
        saved = json.loads(Path("out", line["failure"]["path"], "case.json").read_text())
        assert saved["case"]["problem"]["page_size"] == line["page_size"]
        assert line["failure"]["replay"] == f"pabench replay out/{line['failure']['path']}"
    assert record()["exit_code"] == 1
    assert "8 failed" in capsys.readouterr().out


def test_sweep_crash_is_one_cell_not_the_run() -> None:
    assert sweep(backend="crashing") == 1
    assert [line["status"] for line in journal()] == ["passed", "crashed"] * 4
    assert journal()[1]["reason"].startswith("DeviceFault: block 3")
    assert journal()[1]["run_ns"] is None


def test_sweep_survives_any_exception_of_a_backend() -> None:
    assert sweep(backend="raising") == 1
    place = f"test_sweep_command.py:{Raising.run.__code__.co_firstlineno + 1} in run"
    assert {line["reason"] for line in journal()} == {f"ZeroDivisionError: division by zero ({place})"}


def test_sweep_unsupported_alone_is_nothing_ran_and_beside_others_is_fine() -> None:
    assert sweep(backend="incapable") == 5
    assert {(line["status"], line["reason"]) for line in journal()} == {("unsupported", "no dtype float16")}
    assert sweep("--backend", "counting", "--out", "both", backend="incapable") == 0
    assert {line["status"] for line in journal("both")} == {"unsupported", "passed"}


def test_sweep_machine_that_cannot_run_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(backend="withoutcompiler") == 7
    assert one_line(capsys) == "pabench: no C++ compiler found (install g++)\n"
    assert not Path("out").exists()


def test_sweep_interrupt_keeps_the_journal_and_prints_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sweep(backend="stopping") == 2
    assert [line["status"] for line in journal()] == ["passed", "passed", "interrupted"]
    assert (record()["status"], record()["exit_code"]) == ("interrupted", 2)
    assert "--resume --out out" in capsys.readouterr().err.partition("go on with: pabench sweep ")[2]
    monkeypatch.setattr(Stopping, "run", TorchSdpaBackend.run)
    before = Path("out/journal.jsonl").read_text()
    assert run([*SWEEP, "--resume", "--out", "out"]) == 0
    after = Path("out/journal.jsonl").read_text()
    assert after.startswith(before)
    assert len({line["id"] for line in journal()}) == len(journal()) == 8
    assert record()["status"] == "finished"


def test_sweep_resume_runs_only_what_is_missing() -> None:
    assert sweep() == 0
    whole = Path("out/journal.jsonl").read_text()
    lines = whole.splitlines(keepends=True)
    Path("out/journal.jsonl").write_text("".join(lines[:5]) + lines[5][:40])
    PLANNED.clear()
    assert sweep("--resume") == 0
    assert [line["id"] for line in journal()] == [json.loads(line)["id"] for line in lines]
    assert {batch[0] for batch in PLANNED} == {8, 16}
    PLANNED.clear()
    assert sweep("--resume") == 0
    assert len(PLANNED) <= 1  # the look whether this machine can run the backend


def test_sweep_resume_refuses_another_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep() == 0
    before = Path("out/journal.jsonl").read_bytes()
    capsys.readouterr()
    assert sweep("--resume", page_sizes="8,32") == 4
    assert "page-sizes = [8, 32]: must be [8, 16]" in one_line(capsys)
    data = record()
    data["config"]["digests"]["kernels"] = "other"
    Path("out/run.json").write_text(json.dumps(data))
    assert sweep("--resume") == 4
    assert "the kernel sources differ" in one_line(capsys)
    data["config"]["digests"]["cells"] = "other"
    Path("out/run.json").write_text(json.dumps(data))
    assert sweep("--resume") == 4
    assert "the lengths drawn differ" in one_line(capsys)
    assert Path("out/journal.jsonl").read_bytes() == before


def test_sweep_resume_sees_an_edited_kernel() -> None:
    Path("kernels/pab").mkdir(parents=True)
    digests = []
    for name, text in (("a.cu", "one"), ("a.cu", "two"), ("pab/b.cuh", "one")):
        Path("kernels", name).write_text(text)
        digests.append(kernels_digest("kernels"))
    assert len(set(digests)) == 3
    assert kernels_digest("kernels") == digests[-1]


def test_sweep_resume_of_nothing_starts_from_the_front() -> None:
    assert sweep("--resume") == 0
    assert len(journal()) == 8


def test_sweep_dry_run_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert sweep("--dry-run") == 0
    assert "8 cells on device emulated; nothing was written" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert PLANNED == []


def test_sweep_default_folder_is_new_each_time() -> None:
    words = [*SWEEP, "--page-sizes", "8", *SMALL, "--backend", "counting", "--batch", "1"]
    assert run(words) == 0
    assert run(words) == 0
    assert len(list(Path("runs").glob("sweep-*/run.json"))) == 2


def test_sweep_flag_wins_over_file_over_default() -> None:
    Path("sweep.toml").write_text(
        'page-sizes = [8]\nbatch = 2\nlengths = "fixed:len=9"\nheads = "2"\nhead-dim = 8\n'
        'backend = "counting"\nout = "filed"\n'
    )
    assert run([*SWEEP, "--config", "sweep.toml", "--batch", "1,3"]) == 0
    config = record("filed")["config"]
    assert (config["page-sizes"], config["batch"], config["head-dim"], config["seed"]) == ([8], [1, 3], 8, 0)


def test_sweep_trace_file_is_a_length_distribution() -> None:
    Path("day.csv").write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,37,4\n2023-11-16 18:17:04.0319600,39,10\n"
    )
    words = [*SWEEP, "--page-sizes", "8", "--trace", "day.csv", "--batch", "2", "--backend", "counting"]
    assert run([*words, "--heads", "2", "--head-dim", "8", "--out", "out"]) == 0
    (line,) = journal()
    assert (line["lengths"], line["tokens"]) == ("trace:day", 90)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--page-sizes", "0"), 4, "--page-sizes '0': item 1 is '0', must be a whole number from 1"),
        (("--page-sizes", "8,x"), 4, "item 2 is 'x'"),
        (("--page-sizes", "8,,16"), 4, "item 2 is empty"),
        (("--page-sizes", "8,8"), 4, "item 2 gives 8 a second time"),
        (("--page-sizes", ""), 4, "the list is empty"),
        (("--lengths", "azure-con"), 4, "did you mean 'azure-conv'"),
        (("--lengths", "list:1,-2"), 4, "item 2 is '-2'"),
        (("--lengths", "fixed:len=nan"), 4, "fixed:len = 'nan'"),
        (("--lengths", "list:99999999999"), 4, "must be at most 2147483647"),
        (("--heads", "32:5"), 4, "must be a multiple of 5 KV heads"),
        (("--backend", "cuontin"), 4, "did you mean 'counting'"),
        (("--gpu", "H20"), 4, "did you mean 'h200'"),
        (("--dtypes", "fp16"), 4, "unknown dtype 'fp16'"),
        (("--layouts", "NDH"), 4, "did you mean 'NHD'"),
        (("--trace", "none.csv"), 4, "none.csv"),
        (("--trace", "empty.csv"), 4, "empty.csv"),
        (("--config", "bad.toml"), 4, "did you mean 'page-sizes'"),
        (("--out", "full"), 4, "full is not empty"),
        (("--out", "a-file"), 4, "a-file is not a folder"),
        (("--out", "a-file/below"), 7, "a-file"),
        (("--out", ""), 4, "must be the name of a folder"),
        (("--resume", "--out", "full"), 4, "is not a run directory"),
        (("--resume",), 4, "needs the folder of the run"),
        (("--page-size", "8"), 4, "--page-size"),
    ],
)
def test_sweep_bad_input_is_one_line_and_writes_nothing(
    words: tuple[str, ...], code: int, text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Path("empty.csv").touch()
    Path("a-file").touch()
    Path("bad.toml").write_text("page-size = 8")
    Path("full").mkdir()
    Path("full/kept.txt").write_text("mine")
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    base = [] if words[0] == "--page-sizes" else ["--page-sizes", "8"]
    base += [] if words[0] == "--backend" else ["--backend", "counting"]
    assert run([*SWEEP, *base, *words]) == code
    assert text in one_line(capsys)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_sweep_folder_that_cannot_be_written_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("locked").mkdir(mode=0o500)
    assert sweep("--out", "locked/run") == 7
    assert "not writable" in one_line(capsys)


SLOW = """
    import os, sys, time, types
    from pathlib import Path
    from pabench.subjects.backends import own
    from pabench.subjects.peers.named import NamedSubject
    from pabench.subjects.backends.torch_sdpa import TorchSdpaBackend
    from pabench.cli.main import main
    import pabench.device.registry, pabench.report.render

    class Host:
        name, description = "emulated", "stub"
        def synchronize(self): pass

    def cells_done():
        journal = Path("out/journal.jsonl")
        return journal.read_bytes().count(b"\\n") if journal.exists() else 0

    class Slow(TorchSdpaBackend):
        def run(self, plan):
            while cells_done() == int(os.environ["STOPS_AT"]):
                time.sleep(0.02)  # until somebody ends it
            super().run(plan)

    module = types.ModuleType("slow_backends")
    module.Slow = Slow
    sys.modules["slow_backends"] = module
    own.OWN["slow"] = NamedSubject(about="slow", place="slow_backends:Slow")
    pabench.device.registry.open_device = lambda name, **options: Host()
    pabench.report.render.render_report = lambda runs, out: out
    main()
"""


def start_slow(*words: str, stops_at: int = -1) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[3]
    code = textwrap.dedent(SLOW)
    return subprocess.Popen(
        [sys.executable, "-c", code, *SWEEP, *words],
        env={**os.environ, "PYTHONPATH": str(root), "STOPS_AT": str(stops_at)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def wait_for_lines(count: int) -> None:
    path, end = Path("out/journal.jsonl"), time.monotonic() + 300
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "stops"), [(signal.SIGKILL, (2, 3, 6)), (signal.SIGTERM, (2,))], ids=["9", "15"]
)
def test_sweep_stopped_in_the_middle_loses_no_cell_and_repeats_none(
    number: signal.Signals, stops: tuple[int, ...]
) -> None:
    words = ["--page-sizes", "8,16", *SMALL, "--backend", "slow", "--out", "out"]
    finished = b""
    for stop in stops:
        process = start_slow(*words, stops_at=stop)
        wait_for_lines(stop)
        process.send_signal(number)
        _, error = process.communicate(timeout=300)
        assert process.returncode == (-9 if number == signal.SIGKILL else 2), error
        before = Path("out/journal.jsonl").read_bytes()
        assert before.startswith(finished)
        finished = before[: before.rfind(b"\n") + 1]
        # a signal that can be heard leaves a line of the cell in work, if it does not come between two cells
        assert finished.count(b"\n") in ((stop,) if number == signal.SIGKILL else (stop, stop + 1))
        assert record()["status"] == ("running" if number == signal.SIGKILL else "interrupted")
        words = ["--resume", "--out", "out"]
    resumed = start_slow(*words)
    _, error = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, error
    assert Path("out/journal.jsonl").read_bytes().startswith(finished)
    assert len({line["id"] for line in journal()}) == len(journal()) == 8
    assert {line["status"] for line in journal()} == {"passed"}
