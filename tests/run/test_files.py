# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pabench.cli.main import run
from pabench.errors import EnvironmentRefused, PabenchError, UsageError
from pabench.run.files import atomic_write_text, check_output

MEMORY = ["memory", "--heads", "2:1", "--layers", "1", "--requests", "10", "--lengths", "fixed:len=20"]


def test_write_follows_a_link_and_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to("folder/target")
    atomic_write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "link", "target"]


def test_write_makes_what_a_dangling_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    atomic_write_text(tmp_path / "link", "new")
    assert (tmp_path / "absent").read_text() == "new"


def test_write_goes_through_a_device_and_leaves_it_there(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | 0o020000, os.makedev(1, 3))
        device.open("wb").close()
    except OSError:
        # nobody but root makes devices: a link to one is as good
        device.unlink(missing_ok=True)
        device.symlink_to(os.devnull)
    before = os.stat(device)
    atomic_write_text(device, "text")
    assert (os.stat(device).st_rdev, os.stat(device).st_mode) == (before.st_rdev, before.st_mode)
    assert os.stat(os.devnull).st_rdev == os.makedev(1, 3)


def test_write_goes_through_a_pipe(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    atomic_write_text(pipe, "text" * 100_000)
    reader.join()
    assert read == ["text" * 100_000]
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("to", ["file", "pipe"])
def test_write_to_standard_output_comes_in_its_place(tmp_path: Path, name: str, to: str) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    code = (
        "import sys; from pathlib import Path; from pabench.run.files import atomic_write_text as write\n"
        f"print('before'); write(Path({name!r}), 'text\\n'); print('after')"
    )
    words = [sys.executable, "-c", code]
    if to == "pipe":
        said = subprocess.run(words, cwd=tmp_path, stdout=subprocess.PIPE, check=True).stdout.decode()
    else:
        with (tmp_path / "out").open("wb") as file:
            subprocess.run(words, cwd=tmp_path, stdout=file, check=True)
        said = (tmp_path / "out").read_text()
    assert said == "before\ntext\nafter\n"


def test_write_spells_lone_surrogates(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "a", "a\ud800b\udcffc é")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "a\\ud800b\\udcffc é"


def test_write_takes_the_longest_name_there_is(tmp_path: Path) -> None:
    for name in ("x" * 255, "é" * 127):
        atomic_write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"


def test_write_refuses_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("folder", "absent/file", "x" * 256):
        with pytest.raises(EnvironmentRefused, match="cannot write"):
            atomic_write_text(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def refusal(path: Path, **more: Path) -> PabenchError | None:
    try:
        check_output("--json", path, **more)
    except PabenchError as error:
        return error
    return None


def test_output_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "loop").symlink_to("loop")
    for name, rule in (
        (".", "must be a file in an existing folder"),
        ("absent/x", "must be a file in an existing folder"),
        ("file/x", "must be a file in an existing folder"),
        ("x" * 256, "file name too long"),
        ("loop", "too many levels of symbolic links"),
    ):
        found = refusal(tmp_path / name)
        assert isinstance(found, UsageError), name
        assert rule in str(found)
        assert "\n" not in str(found)
    assert isinstance(refusal(Path("/proc/pabench.json")), EnvironmentRefused)
    assert isinstance(refusal(Path("/sys/kernel/pabench.json")), EnvironmentRefused)


def test_output_may_be_what_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    for path in ("file", "link", "new", "x" * 255):
        assert refusal(tmp_path / path) is None
    for path in ("/dev/null", "/dev/stdout", "/dev/stderr"):
        assert refusal(Path(path)) is None
    assert refusal(tmp_path / "run" / "x", made=tmp_path / "run") is None
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ([*MEMORY, "--json"], "--json"),
        (["stress", "--scenario", "fill", "--json"], "--json"),
        (["conformance", "--json"], "--json"),
        (["conformance", "--junit"], "--junit"),
        (["conformance", "--html"], "--html"),
        (["model", "--html"], "--html"),
        (["model", "--capture"], "--capture"),
        (["selftest", "--calibrate", "1", "--json"], "--json"),
        (["serving", "--reproduce"], "--reproduce"),
        (["report", "absent", "--out"], "--out"),
    ],
)
@pytest.mark.parametrize(("name", "code"), [("x" * 300, 4), ("/proc/x", 7), (".", 4), ("absent/x", 4)])
def test_command_refuses_its_outputs_first(
    words: list[str],
    option: str,
    name: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*words, name]) == code
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert option in said.err
    assert list(tmp_path.iterdir()) == []


def test_command_writes_json_to_standard_output() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pabench", *MEMORY, "--json", "/dev/stdout"], capture_output=True, check=True
    )
    assert done.stdout.decode().count('"token_bytes"') == 1
    assert Path("/dev/stdout").is_symlink()
