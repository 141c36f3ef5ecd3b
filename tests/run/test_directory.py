# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.errors import EnvironmentRefused, UsageError
from pabench.run.directory import RunDirectory, check_new, read_run, read_runs
from pabench.run.failures import save_failure
from pabench.run.record import Record, Status
from pabench.run.schema import read_line
from tests.support.report_data import cell, check, record_of, sweep_lines, write_run


def write_records(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    with new(path) as run:
        for line in lines:
            run.append(record_of(line))


def new(path: Path) -> RunDirectory:
    return RunDirectory.create(path, kind="sweep", command="pabench sweep", config={"seed": 1}, provenance={})


def test_store_run_round_trip(tmp_path: Path) -> None:
    lines = sweep_lines(batches=(8,))
    with new(tmp_path / "a" / "run") as run:
        for line in lines:
            run.append(record_of(line))
        run.finish(status="finished", exit_code=0)
    found = read_run(tmp_path / "a" / "run")
    assert list(found.records) == [record_of(line) for line in lines]
    assert (found.record["status"], found.record["exit_code"], found.torn) == ("finished", 0, False)
    assert found.record["config"] == {"seed": 1}


def test_store_run_line_is_on_the_disk_before_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []
    with new(tmp_path / "run") as run:
        monkeypatch.setattr(
            os, "fsync", lambda handle: synced.append((run.path / "journal.jsonl").read_bytes())
        )
        run.append(record_of(cell(8, "azure-conv", 8)))
    assert [content.count(b"\n") for content in synced] == [1]


def test_store_run_starts_as_running(tmp_path: Path) -> None:
    new(tmp_path / "run").close()
    record = read_run(tmp_path / "run").record
    assert (record["status"], record["exit_code"], record["finished"]) == ("running", None, None)


def test_store_run_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        new(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_store_run_takes_an_empty_folder(tmp_path: Path) -> None:
    new(tmp_path).close()
    assert (tmp_path / "run.json").is_file()


@pytest.mark.parametrize("below", ["file", "file/run"])
def test_store_run_refuses_a_path_through_a_file(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises((UsageError, EnvironmentRefused), match="not a folder"):
        check_new(tmp_path / below)
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_store_run_refuses_an_unwritable_parent(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(EnvironmentRefused, match="not writable"):
            check_new(tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)


def test_store_run_refuses_where_the_system_forbids_a_folder() -> None:
    with pytest.raises(EnvironmentRefused, match=r"cannot (write|create)"):
        new(Path("/proc/pabench/run"))


def test_store_run_appends_only_valid_lines(tmp_path: Path) -> None:
    with new(tmp_path / "run") as run:
        with pytest.raises(UsageError, match="page_size = 0: must be a whole number from 1"):
            run.append(record_of({**cell(8, "azure-conv", 8), "page_size": 0}))
        run.append(record_of(cell(8, "azure-conv", 8)))
    assert len(read_run(tmp_path / "run").lines) == 1


def test_store_run_keeps_infinite_ratios_in_strict_json(tmp_path: Path) -> None:
    with new(tmp_path / "run") as run:
        run.append(record_of(check("x", "append", max_ratio="inf")))
    text = (tmp_path / "run" / "journal.jsonl").read_text()
    assert "Infinity" not in text
    assert float(read_run(tmp_path / "run").lines[0]["max_ratio"]) == float("inf")


def test_store_run_one_writer_at_a_time(tmp_path: Path) -> None:
    with new(tmp_path / "run"), pytest.raises(EnvironmentRefused, match="another process"):
        RunDirectory.open(tmp_path / "run", kind="sweep")


def test_store_run_open_refuses_another_kind(tmp_path: Path) -> None:
    new(tmp_path / "run").close()
    with pytest.raises(UsageError, match="holds a sweep run, not a conformance run"):
        RunDirectory.open(tmp_path / "run", kind="conformance")


@pytest.mark.parametrize("bad", ["", "../up", "a/b", "a b", ".", "x" * 400])
def test_store_run_failure_folder_stays_inside(tmp_path: Path, bad: str) -> None:
    case = {"schema": 1}
    saved = save_failure(
        tmp_path, check=bad, case_id=bad, kind="attention", case=case, subject=bad, device="d", text="wrong"
    )
    folder = tmp_path / saved.path
    assert folder.resolve().parent == (tmp_path / "failures").resolve()
    assert json.loads((folder / "case.json").read_text())["case"] == case
    assert (folder / "verdict.txt").read_text() == "wrong\n"


TRACE = 'Traceback (most recent call last):\n  File "mine.py", line 3, in decode\nKeyError: 3\n'


@pytest.mark.parametrize(
    ("traceback", "more"), [(TRACE, f"\n{TRACE}"), (None, ""), (" \n", ""), ({"not": "a text"}, "")]
)
def test_store_run_failure_keeps_the_traceback_below_the_verdict(
    tmp_path: Path, traceback: Any, more: str
) -> None:
    given: dict[str, Any] = {"check": "decode", "case_id": "1", "kind": "attention", "case": {}}
    saved = save_failure(
        tmp_path, **given, subject="s", device="d", text="KeyError: 3 (mine.py:3)", traceback=traceback
    )
    assert saved.text == "KeyError: 3 (mine.py:3)"
    assert (tmp_path / saved.path / "verdict.txt").read_text() == f"KeyError: 3 (mine.py:3)\n{more}"


def test_store_run_failures_of_two_subjects_do_not_meet(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "check": "decode[needle]",
        "case_id": "00ff",
        "kind": "attention",
        "case": {},
        "device": "d",
    }
    places = {
        save_failure(tmp_path, **given, subject=subject, text="w", words=("--backend", subject)).path
        for subject in ("my kernels.py:a", "my kernels.py:b")
    }
    assert len(places) == 2
    again = save_failure(tmp_path, **given, subject="x", text="w", words=("--backend", "a b.py:f")).replay
    assert again.endswith("--backend 'a b.py:f'")


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 4000), again=st.booleans())
def test_store_run_any_cut_loses_only_the_last_line_property(cut: int, again: bool) -> None:
    lines = [cell(p, "azure-conv", 8) for p in (8, 16, 32)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        write_records(path, lines)
        journal = path / "journal.jsonl"
        content = journal.read_bytes()
        kept = content[: min(cut, len(content))]
        journal.write_bytes(kept)
        whole = kept.count(b"\n")
        # only the newline of the last line is missing: the line itself is whole
        if kept and not kept.endswith(b"\n") and content[len(kept) : len(kept) + 1] == b"\n":
            whole += 1
        found = read_run(path)
        assert list(found.records) == [record_of(line) for line in lines[:whole]]
        with RunDirectory.open(path, kind="sweep") as run:
            assert [record.id for record in run.records] == [line["id"] for line in lines[:whole]]
            for line in lines[whole:]:
                run.append(record_of(line))
        assert journal.read_bytes() == content
        if again:
            RunDirectory.open(path, kind="sweep").close()
            assert journal.read_bytes() == content


def test_store_run_kill_loses_no_appended_line(tmp_path: Path) -> None:
    program = """
import sys
from dataclasses import replace
from pathlib import Path
from pabench.run.directory import RunDirectory
from tests.support.report_data import cell, record_of
run = RunDirectory.create(Path(sys.argv[1]), kind="sweep", command="", config={}, provenance={})
for n in range(10**6):
    run.append(record_of(cell(8, "fixed:len=1024", 8, id=str(n))))
    print(n, flush=True)
"""
    path = tmp_path / "run"
    root = Path(__file__).resolve().parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    if child.stdout is None:
        raise RuntimeError("the child has no output")
    told = [child.stdout.readline() for _ in range(20)]
    child.send_signal(signal.SIGKILL)
    rest = child.stdout.read()
    child.wait()
    # a number cut short has no newline
    finished = len(told) + rest.count("\n")
    ids = [line["id"] for line in read_run(path).lines]
    assert ids == [str(n) for n in range(len(ids))]
    assert len(ids) >= finished


BAD_RECORDS = {
    "text": ("not json", r"run.json:1: not JSON"),
    "second line": ('{\n"a": }', r"run.json:2: not JSON"),
    "list": ("[]", "must be a JSON object"),
    "old": ('{"schema": 0}', "schema = 0: this version reads schema 1"),
    "newer": ('{"schema": 3}', "schema = 3: this version reads schema 1 and 2"),
    "no schema": ("{}", "schema = None"),
    "true": ('{"schema": true}', "schema = True"),
    "bare": ('{"schema": 1}', "field kind is missing"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "number": ("1" * 5000, "not JSON"),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_store_run_bad_record_names_file_and_rule(tmp_path: Path, name: str) -> None:
    text, message = BAD_RECORDS[name]
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_run(tmp_path)
    assert "run.json" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (caught.value.hint is not None) == (name == "newer")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": ""}, "kind = '': must be a non-empty text"),
        ({"status": "done"}, "status = 'done': must be one of running"),
        ({"exit_code": "0"}, "exit_code = '0': must be a whole number or null"),
        ({"started": "yesterday"}, "started = 'yesterday': must be an ISO 8601 time"),
        ({"config": []}, "config = \\[\\]: must be an object"),
    ],
)
def test_store_run_bad_record_field(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write_run(tmp_path / "run", "sweep", [])
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**record, **change}))
    with pytest.raises(UsageError, match=message):
        read_run(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", r"journal.jsonl:2: column 1: not JSON"),
        ("[1]", r"journal.jsonl:2: must be a JSON object"),
        ('{"kind": "cat"}', r"journal.jsonl:2: kind = 'cat': must be one of cell, check"),
        ('{"kind": "cell"}', r"journal.jsonl:2: field id is missing"),
        ('{"kind": "check", "id": "a", "subject": ""}', r"journal.jsonl:2: subject = ''"),
    ],
)
def test_store_run_bad_line_names_its_number(tmp_path: Path, line: str, message: str) -> None:
    path = write_run(tmp_path / "run", "sweep", [cell(8, "azure-conv", 8)])
    with (path / "journal.jsonl").open("a") as journal:
        journal.write(line + "\n")
    with pytest.raises(UsageError, match=message):
        read_run(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": "ok"}, r"journal.jsonl:1: status = 'ok': must be one of passed, known-failure"),
        ({"label": 3}, r"journal.jsonl:1: label = 3: must be a non-empty text"),
        ({"subject": "rawkernel"}, r"journal.jsonl:1: subject = 'rawkernel': must be an object"),
        ({"subject": {"kind": "backend"}}, r"journal.jsonl:1: field subject.name is missing"),
        ({"subject": {"kind": "backend", "name": "x", "age": 3}}, r"subject.age is not a field of schema 2"),
        ({"failure": {"path": "x"}}, r"journal.jsonl:1: field failure.case_id is missing"),
        ({"figures": {"run_ns": 5}}, r"figures.run_ns = 5: must have value, unit and provenance"),
        ({"figures": {"x": {"value": 5, "unit": "", "provenance": "guessed"}}}, "figures.x.provenance = 'gu"),
        ({"details": {"backend": "x"}}, r"journal.jsonl:1: field page_size is missing"),
    ],
)
def test_store_run_bad_record_of_now(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "run"
    write_records(path, [cell(8, "azure-conv", 8)])
    line = json.loads((path / "journal.jsonl").read_text())
    (path / "journal.jsonl").write_text(json.dumps({**line, **change}) + "\n")
    with pytest.raises(UsageError, match=message):
        read_run(path)


def test_store_run_of_schema_1_is_read_and_not_resumed(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", "sweep", [cell(8, "azure-conv", 8)])
    assert json.loads((path / "run.json").read_text())["schema"] == 1
    (record,) = read_run(path).records
    assert (record.kind, str(record.status), record.subject.name) == ("sweep", "passed", "rawkernel")
    assert record.figures["run_ns"].unit == "ns"
    with pytest.raises(UsageError, match="written with schema 1, this version writes 2: it can be reported"):
        RunDirectory.open(path, kind="sweep")


@pytest.mark.parametrize("schema", [1, 2])
def test_store_run_reads_missing_badges_by_their_older_name(schema: int) -> None:
    found = {"batch-invariant": "alone: this changes the LSE"}
    line = check("mine", "batch", lacks=found)
    if schema == 2:
        line = record_of(line).to_line()
        line["details"]["lacks"] = line["details"].pop("missing_badges")
    assert read_line(line, "line", schema=schema).details["missing_badges"] == found


def test_store_run_forgets_what_an_interrupt_cut_short(tmp_path: Path) -> None:
    whole = record_of(cell(8, "azure-conv", 8))
    cut = replace(whole, status=Status.INTERRUPTED, reason="interrupted after 3 cases")
    with new(tmp_path / "run") as run:
        for record in (cut, whole):
            run.append(record)
        assert [one.status for one in run.records] == ["passed"]
    assert [one.status for one in read_run(tmp_path / "run").records] == ["passed"]


@pytest.mark.parametrize(
    "change",
    [
        {"batch": -1},
        {"page_size": 8.5},
        {"page_size": True},
        {"num_pages": "3"},
        {"run_ns": [1, None]},
        {"run_ns": 5},
        {"efficiency_gain": "big"},
        {"provenance": {"run_ns": "guessed"}},
        {"check": {"passed": "yes"}},
        {"exact": {"efficiency_gain": 0.5}},
    ],
)
def test_store_run_bad_cell_field(tmp_path: Path, change: dict[str, object]) -> None:
    path = write_run(tmp_path / "run", "sweep", [{**cell(8, "azure-conv", 8), **change}])
    with pytest.raises(UsageError, match=next(iter(change))):
        read_run(path)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_store_run_sample_that_is_no_number_names_its_line(word: str, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", "sweep", [cell(8, "azure-conv", 8, run_ns=[1, 123456789])])
    text = (path / "journal.jsonl").read_text()
    (path / "journal.jsonl").write_text(text.replace("123456789", word))
    with pytest.raises(UsageError, match=r"journal.jsonl:1: run_ns = .*: must be a list of numbers"):
        read_run(path)


def test_store_run_not_utf8(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", "sweep", [])
    (path / "journal.jsonl").write_bytes(b'{"a": "\xff"}\n')
    with pytest.raises(UsageError, match=r"journal.jsonl:1: not UTF-8: byte 7 is 0xff"):
        read_run(path)


def test_store_run_missing_pieces(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"it has no run\.json"):
        read_run(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not a folder"):
        read_run(tmp_path / "file")
    with pytest.raises(UsageError, match="no run given"):
        read_runs([])


def test_store_run_merge_reads_each_run_once_in_order(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", "sweep", sweep_lines(batches=(1,)))
    two = write_run(tmp_path / "two", "conformance", [])
    runs = read_runs([two, one, tmp_path / "x" / ".." / "two", one])
    assert [run.kind for run in runs] == ["conformance", "sweep"]


def cells(count: int) -> list[Record]:
    return [record_of({**cell(8, "azure-conv", 8), "id": f"cell{place}"}) for place in range(count)]


@pytest.mark.parametrize(
    ("meddle", "said"),
    [
        (lambda journal: journal.write_bytes(b""), "holds 0 of 3 lines"),
        (lambda journal: journal.write_bytes(journal.read_bytes()[:-9]), "holds 2 of 3 lines"),
        (lambda journal: journal.open("ab").write(b"{}\n"), "holds 4 of 3 lines"),
        (
            lambda journal: journal.write_bytes(journal.read_bytes().replace(b"passed", b"failed")),
            "holds other lines",
        ),
        (lambda journal: journal.unlink(), "cannot be read (no such file or directory)"),
    ],
)
@pytest.mark.parametrize("resumed", [False, True])
def test_store_run_notices_who_else_writes_its_journal(
    meddle: Callable[[Path], object], said: str, resumed: bool, tmp_path: Path
) -> None:
    path, lines = tmp_path / "run", cells(3)
    with new(path) as run:
        run.append(lines[0])
        if not resumed:
            run.append(lines[1])
    with RunDirectory.open(path, kind="sweep") as run:
        for line in lines[len(run.records) :]:
            run.append(line)
        meddle(path / "journal.jsonl")
        with pytest.raises(EnvironmentRefused, match="something else wrote to it") as caught:
            run.finish(status="finished", exit_code=0)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    found = read_run(path)
    assert [line["id"] for line in found.lines] == ["cell0", "cell1", "cell2"]
    assert (found.record["status"], found.record["exit_code"]) == ("interrupted", 7)


def test_store_run_says_once_that_the_disk_is_full(tmp_path: Path) -> None:
    """As the operating system says it: the journal is the device that is always full."""
    run = new(tmp_path / "run")
    full = open("/dev/full", "ab")  # noqa: SIM115
    run._journal.close()
    run._journal = full
    with pytest.raises(EnvironmentRefused, match=r"journal\.jsonl: no space left on device"), run:
        run.append(record_of(cell(8, "azure-conv", 8)))
    assert full.closed


@pytest.mark.parametrize(
    "left", [["journal.jsonl"], ["journal.jsonl", ".run.json.abc"], [".run.json.x1"], []]
)
def test_store_run_starts_where_one_was_killed_at_its_start(left: list[str], tmp_path: Path) -> None:
    for name in left:
        (tmp_path / name).write_text("{half" if name.startswith(".") else "")
    check_new(tmp_path)
    new(tmp_path).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal.jsonl", "run.json"]


def test_store_run_does_not_take_a_journal_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text("{}")
    with pytest.raises(UsageError, match="is not empty"):
        check_new(tmp_path)


def test_store_run_does_not_start_in_one_that_is_starting(tmp_path: Path) -> None:
    with new(tmp_path) as run:
        (tmp_path / "run.json").unlink()
        with pytest.raises(EnvironmentRefused, match="is being written by another process"):
            new(tmp_path)
        assert run.records == ()


@pytest.mark.parametrize("read", [check_new, read_run])
def test_store_run_refuses_a_name_of_any_length(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="file name too long"):
        read(tmp_path / ("x" * 300))
