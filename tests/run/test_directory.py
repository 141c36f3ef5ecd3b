from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.errors import EnvironmentRefused, InvalidCase, UsageError
from pabench.run.directory import RunDirectory, check_new, read_run, read_runs
from tests.support.report_data import cell, check, sweep_lines, write_run


def new(path: Path) -> RunDirectory:
    return RunDirectory.create(path, kind="sweep", command="pabench sweep", config={"seed": 1}, provenance={})


def test_store_run_round_trip(tmp_path: Path) -> None:
    lines = sweep_lines(batches=(8,))
    with new(tmp_path / "a" / "run") as run:
        for line in lines:
            run.append(line)
        run.finish(status="finished", exit_code=0)
    found = read_run(tmp_path / "a" / "run")
    assert list(found.lines) == lines
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
        run.append(cell(8, "azure-conv", 8))
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
        with pytest.raises(UsageError, match="page_size = 0: must be a whole number >= 1"):
            run.append({**cell(8, "azure-conv", 8), "page_size": 0})
        run.append(cell(8, "azure-conv", 8))
    assert len(read_run(tmp_path / "run").lines) == 1


def test_store_run_keeps_infinite_ratios_in_strict_json(tmp_path: Path) -> None:
    with new(tmp_path / "run") as run:
        run.append(check("x", "append", max_ratio=float("inf")))
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


@pytest.mark.parametrize("bad", ["", "../up", "a/b", "a b", "."])
def test_store_run_failure_folder_stays_inside(tmp_path: Path, bad: str) -> None:
    with new(tmp_path / "run") as run, pytest.raises(InvalidCase):
        run.failure_dir(bad)


def test_store_run_failure_folder(tmp_path: Path) -> None:
    with new(tmp_path / "run") as run:
        assert run.failure_dir("00ff").is_dir()


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 4000), again=st.booleans())
def test_store_run_any_cut_loses_only_the_last_line_property(cut: int, again: bool) -> None:
    lines = [cell(p, "azure-conv", 8) for p in (8, 16, 32)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        write_run(path, "sweep", lines, status="running", exit_code=None, finished=None)
        journal = path / "journal.jsonl"
        content = journal.read_bytes()
        kept = content[: min(cut, len(content))]
        journal.write_bytes(kept)
        whole = kept.count(b"\n")
        # only the newline of the last line is missing: the line itself is whole
        if kept and not kept.endswith(b"\n") and content[len(kept) : len(kept) + 1] == b"\n":
            whole += 1
        found = read_run(path)
        assert list(found.lines) == lines[:whole]
        with RunDirectory.open(path, kind="sweep") as run:
            assert run.done_ids() == {line["id"] for line in lines[:whole]}
            for line in lines[whole:]:
                run.append(line)
        assert journal.read_bytes() == content
        if again:
            RunDirectory.open(path, kind="sweep").close()
            assert journal.read_bytes() == content


def test_store_run_kill_loses_no_appended_line(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from pabench.run.directory import RunDirectory
from tests.support.report_data import cell
run = RunDirectory.create(Path(sys.argv[1]), kind="sweep", command="", config={}, provenance={})
for n in range(10**6):
    run.append(cell(8, "fixed:len=1024", 8, id=str(n)))
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "kind = 'other': must be one of sweep, conformance"),
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
