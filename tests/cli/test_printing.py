# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from pabench.cli.main import run
from pabench.errors import InvalidCase, UnknownName
from pabench.text import clean_text, one_line, shown

HOSTILE = {
    "escape": "\x1b[31mred\x1b[0m",
    "title": "\x1b]0;title\x07",
    "nul": "a\x00b",
    "right to left": "abc\u202egnp.exe",
    "isolate": "a\u2066b\u2069",
    "surrogate": "a\ud800b\udcff",
    "c1": "a\x9b31mb",
    "backspace": "ok\b\bno",
    "carriage": "FAILED\rpassed",
    "separator": "a\u2028b",
}
HARMFUL = {c for text in HOSTILE.values() for c in text if not c.isprintable()}


def harmless(said: str) -> bool:
    return not HARMFUL & set(said)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_text_is_harmless_and_all_there(text: str) -> None:
    for cleaned in (clean_text(text), one_line(text), shown(text)):
        assert harmless(cleaned)
        assert cleaned.isprintable()
        cleaned.encode("utf-8")
    # blanks alone may go: carriage returns and separators fold into one
    letters = [c for c in text if c.isprintable()]
    assert [c for c in one_line(text) if c in letters][: len(letters)]


def test_text_keeps_what_people_write() -> None:
    for text in ("שלום עולם", "naïve – 7 × 8", "日本語", "two\nlines\tand tab"):
        assert clean_text(text) == text


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (lambda text: one_line(text), 1100),
        (lambda text: shown(text), 130),
        (lambda text: str(UnknownName("mutant", text, ["a", "b"])), 200),
        (lambda text: str(InvalidCase("field", text, "must be short")), 200),
        (lambda text: str(InvalidCase("field", int("9" * 4000) ** 2, "must be short")), 200),
    ],
)
def test_text_of_any_length_is_bounded_and_keeps_both_ends(make: object, limit: int) -> None:
    said = make("begin" + "x" * 50_000 + "end")  # type: ignore[operator]
    assert len(said) <= limit
    assert said.endswith(("end", "end'", "(known: a, b)", "must be short"))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize(
    "words",
    [
        ["report"],
        ["replay"],
        ["sweep", "--page-sizes", "8", "--config"],
        ["sweep", "--grid"],
        ["serving", "--trace"],
        ["serving", "--executor", "model", "--calibration"],
        ["memory", "--trace"],
        ["memory", "--lengths"],
        ["kernels", "--kernel"],
        ["selftest", "--mutants"],
        ["conformance", "--inputs"],
        ["conformance", "--allocator"],
        ["stress", "--scenario"],
        ["list"],
    ],
    ids=lambda words: " ".join(words),
)
def test_command_repeats_hostile_words_harmlessly(
    words: list[str], text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    # what an argument can hold: no NUL, and of surrogates those that stand for bytes
    text = text.replace("\x00", "").replace("\ud800", "\udc80")
    assert run([*words, text]) in (4, 5)
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert harmless(said.rstrip("\n"))


def test_command_prints_any_text_in_any_locale() -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "pabench", "report", b"caf\xc3\xa9\xff\xf0\x9f\x98\x80"],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 4
    assert done.stderr.count(b"\n") == 1
    assert b"Traceback" not in done.stderr


SWEEP = [
    "sweep",
    "--page-sizes",
    "8",
    "--lengths",
    "fixed:len=9",
    "--batch",
    "1",
    "--heads",
    "2:1",
    "--head-dim",
    "8",
]
COMMANDS = {
    "sweep": [*SWEEP, "--device", "emulated", "--out", "run"],
    "conformance": [
        "conformance",
        "-k",
        "empty",
        "--profile",
        "quick",
        "--device",
        "emulated",
        "--artifacts",
        "run",
    ],
    "stress": ["stress", "--scenario", "fill", "--rounds", "2", "--pages", "16", "--out", "run"],
    "serving": [
        "serving",
        "--lengths",
        "fixed:len=30",
        "--outputs",
        "fixed:len=5",
        "--requests",
        "9",
        "--out",
        "run",
    ],
    "memory": ["memory", "--model", "llama-3-8b", "--requests", "9"],
    "list": ["list", "lengths"],
    "doctor": ["doctor"],
    "selftest": ["selftest", "--calibrate", "1", "--out", "run"],
    "help": ["--help"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_ends_well_when_nobody_reads(name: str, tmp_path: Path) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pabench", *COMMANDS[name]],
            cwd=tmp_path,
            stdout=writes,
            stderr=writes,
            check=False,
        )
    finally:
        os.close(writes)
    assert done.returncode == 0
    if "run" in COMMANDS[name]:
        assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize("name", ["list", "sweep"])
def test_command_ends_well_without_any_stream(name: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pabench", *COMMANDS[name]]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *words], cwd=tmp_path, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["list", "sweep"])
def test_command_says_when_its_output_has_no_room(name: str, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "pabench", *COMMANDS[name]],
            cwd=tmp_path,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 7
    last = done.stderr.decode().splitlines()[-1]
    assert last == "pabench: cannot write to standard output: no space left on device"
    if name == "sweep":
        assert (tmp_path / "run" / "report.html").is_file()


def on_a_terminal(words: list[str], cwd: Path) -> tuple[int, str]:
    """Exit code and everything that a terminal is sent."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pabench", *words], cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the last writer has closed
            break
        if not part:
            break
        said += part
    os.close(ours)
    return process.wait(), said.decode("utf-8", "replace")


BACKEND = """
import numpy as np

class Wrong(Exception):
    def __str__(self):
        return "\\x1b]0;owned\\x07 \\u202e [/b] \\x00 \\ud800 :bug: [red]"

def decode(*args, **kwargs):
    raise Wrong()
"""


@pytest.mark.parametrize("kind", ["conformance", "sweep"])
def test_terminal_is_sent_nothing_that_a_backend_says(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "a[" / "b].py"
    place.parent.mkdir()
    place.write_text(BACKEND)
    subject = ["--backend", "a[/b].py:decode"]
    words = [*COMMANDS[kind], *subject]
    code, said = on_a_terminal(words, tmp_path)
    assert code == 1, said
    assert "\x1b]0;owned" not in said
    assert "\u202e" not in said
    assert "\x00" not in said
    assert "Traceback" not in said
    assert "[/b]" in said
    assert "internal error" not in said
    assert (tmp_path / "run" / "report.html").is_file()
