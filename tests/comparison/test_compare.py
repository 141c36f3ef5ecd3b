# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import pabench
from pabench.cli.main import run
from pabench.comparison.compare import compare_runs
from pabench.comparison.words import MARKDOWN_LIMIT, markdown
from pabench.run.figures import figures_of
from pabench.run.read import read_run
from tests.house.test_docs import own_kernel
from tests.support.report_data import cell, check, record_of, write_run

CELLS, SLOWER = 30, 10


def timed_cells(factor: float = 1.0, **fields: Any) -> list[dict[str, Any]]:
    """Cells with 20 quiet samples; ``factor`` stretches those of the first ten."""
    rng, lines = np.random.default_rng(1), []
    for place in range(CELLS):
        line = cell(8, "azure-conv", place + 1)
        samples = 1e5 * np.exp(0.005 * rng.standard_normal(20)) * (factor if place < SLOWER else 1)
        words = {**line["provenance"], "run_ns": "measured"}
        own = {"id": f"cell-{place}", "provenance": words}
        lines.append({**line, **own, "run_ns": samples.tolist(), **fields})
    return lines


def name(place: int) -> str:
    return f"batch {place + 1}  rawkernel"


def sweep(folder: Path, *given: Any, **fields: Any) -> Path:
    return write_run(folder, "sweep", timed_cells(*given, **fields))


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_compare_of_a_run_with_itself_is_the_same_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(sweep(tmp_path / "a"))
    assert run(["compare", folder, folder]) == 0
    assert said(capsys)[0].startswith("NO WORSE: ")
    frame = pabench.compare(folder, folder)
    assert set(frame["change"]) == {"SAME"}
    assert frame.attrs["exit_code"] == 0
    assert {"verdicts", "counted", "timed"} == set(frame["part"])


def test_compare_names_the_ten_cells_that_are_slower(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, new = sweep(tmp_path / "a"), sweep(tmp_path / "b", 1.05)
    files = {form: str(tmp_path / f"r.{form}") for form in ("json", "html", "junit", "markdown")}
    options = [word for form, path in files.items() for word in (f"--{form}", path)]
    assert run(["compare", str(base), str(new), *options]) == 1
    lines = said(capsys)
    assert lines[0].startswith("WORSE: run_ns SLOWER 1.050x (")
    assert lines[0].endswith(", and 9 more")
    told = json.loads((tmp_path / "r.json").read_text())
    slower = {line["label"] for line in told["deltas"] if line["change"] == "SLOWER"}
    assert slower == {f"page 8  azure-conv  {name(place)}" for place in range(SLOWER)}
    assert (told["schema"], told["exit_code"]) == (1, 1)
    (suite,) = ElementTree.parse(tmp_path / "r.junit").getroot()
    assert suite.get("failures") == "10"
    page, comment = (tmp_path / "r.html").read_text(), (tmp_path / "r.markdown").read_text()
    assert all(page.count(f"{name(place)}<") == 1 for place in range(SLOWER))
    assert "<script" not in page
    assert comment.count("| SLOWER |") == 10
    # the other way round they are faster, which is no reason to fail
    assert run(["compare", str(new), str(base)]) == 0
    assert "10 FASTER" in capsys.readouterr().out


def replicated(folder: Path, *, seed: int, factor: float, clock: float = 1.0) -> Path:
    """Cells of five processes that differ by 1 %, a line each; ``clock`` slows that of the first ten."""
    rng, lines = np.random.default_rng(seed), []
    for replicate in range(1, 6):
        for place, line in enumerate(timed_cells()):
            stretched = place < SLOWER
            noise = 0.01 * rng.standard_normal() + 0.005 * rng.standard_normal(20)
            samples = 1e5 * np.exp(noise) * (factor if stretched else 1.0)
            mhz = 1980.0 * (clock if stretched else 1.0)
            own = {"id": f"cell-{place}-{replicate}", "item": f"cell-{place}", "replicate": replicate}
            words = {**line["provenance"], "run_ns": "measured", "run_cycles": "measured"}
            series = {"run_ns": samples.tolist(), "run_cycles": (samples * mhz / 1e3).tolist()}
            lines.append({**line, **own, **series, "provenance": words})
    return write_run(folder, "sweep", lines)


def test_compare_takes_a_process_for_one_observation(tmp_path: Path) -> None:
    base = replicated(tmp_path / "a", seed=1, factor=1.0)
    same, slow = (replicated(tmp_path / name, seed=2, factor=one) for name, one in (("b", 1.0), ("c", 1.05)))
    assert len(read_run(base).records) == CELLS
    timed = pabench.compare(base, same).query("figure == 'run_ns'")
    assert not {"SLOWER", "FASTER"} & set(timed["change"])
    assert (timed["reason"].str.contains("replicates") | (timed["change"] == "SAME")).all()
    timed = pabench.compare(base, slow).query("figure == 'run_ns'")
    assert list(timed["change"] == "SLOWER") == [place < SLOWER for place in range(CELLS)]


def test_compare_is_unsure_where_time_and_cycles_disagree(tmp_path: Path) -> None:
    """8 % longer at a clock that is 10 % slower: in cycles the kernel is faster."""
    base = replicated(tmp_path / "a", seed=1, factor=1.0)
    throttled = replicated(tmp_path / "b", seed=2, factor=1.08, clock=0.9)
    timed = pabench.compare(base, throttled).query("figure == 'run_ns'")[:SLOWER]
    assert set(timed["change"]) == {"UNSURE"}
    said = timed["reason"].str.fullmatch(
        r"1\.0\d\d times as long, 0\.9\d\d times the cycles: the clock differs"
    )
    assert said.all()
    both = replicated(tmp_path / "c", seed=2, factor=1.08)
    assert set(pabench.compare(base, both).query("figure == 'run_ns'")["change"][:SLOWER]) == {"SLOWER"}


def test_compare_is_unsure_where_noise_hides_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = sweep(tmp_path / "a", run_ns=[100.0, 130.0, 80.0, 110.0, 95.0])
    new = sweep(tmp_path / "b", run_ns=[104.0, 128.0, 84.0, 112.0, 99.0])
    assert run(["compare", str(base), str(new)]) == 6
    assert said(capsys)[0].startswith("UNSURE: 30 of ")
    assert run(["compare", str(base), str(new), "--only", "verdicts,counted"]) == 0


@pytest.mark.parametrize(
    ("samples", "word"),
    [
        ([], "no samples in the new run"),
        ([1.0, 0.0], "a sample is 0"),
        ([1.0, 2.0], "2 samples: fewer than 4"),
    ],
)
def test_compare_says_which_samples_are_none(tmp_path: Path, samples: list[float], word: str) -> None:
    base, new = sweep(tmp_path / "a"), sweep(tmp_path / "b", run_ns=samples)
    frame = pabench.compare(base, new)
    told = frame[(frame["figure"] == "run_ns")]
    assert set(told["change"]) == {"UNSURE"}
    assert told["reason"].str.contains(word).all()


def test_compare_of_what_neither_run_has_samples_of_is_the_same(tmp_path: Path) -> None:
    """A call that was made once has a first time and no series."""
    base = sweep(tmp_path / "a", run_ns=[])
    frame = pabench.compare(base, sweep(tmp_path / "b", run_ns=[]))
    told = frame[frame["figure"] == "run_ns"]
    assert (set(told["change"]), set(told["reason"])) == ({"SAME"}, {"no samples in either run"})
    assert frame.attrs["exit_code"] == 0


def test_compare_never_compares_two_classes(tmp_path: Path) -> None:
    base = sweep(tmp_path / "a")
    words = {**cell(8, "azure-conv", 1)["provenance"], "run_ns": "host"}
    frame = pabench.compare(base, sweep(tmp_path / "b", provenance=words))
    told = frame[frame["figure"] == "run_ns"]
    assert set(told["reason"]) == {"measured in the base, host in the new run"}


def test_compare_fails_by_counted_bytes_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = sweep(tmp_path / "a")
    new = sweep(tmp_path / "b", kv_bytes=10**12)
    assert run(["compare", str(base), str(new), "--only", "counted"]) == 1
    assert "kv_bytes MORE" in said(capsys)[0]
    assert run(["compare", str(new), str(base), "--only", "counted"]) == 0
    # what was asked is no cost, and more sharing is no loss
    other = sweep(tmp_path / "c", tokens=7, efficiency_gain=99.0)
    assert run(["compare", str(base), str(other), "--only", "counted"]) == 0
    text = capsys.readouterr().out
    assert "other work was asked" in text
    assert f"{CELLS} LESS" in text


def conformance(folder: Path, **fields: Any) -> Path:
    """Decode and window of ``k``, the second with what is changed."""
    changed = dict(fields)
    records = [record_of(check("k", name, max_ratio=0.2)) for name in ("decode", "decode[window]")]
    figures = {**records[1].figures, **changed.pop("figures", {})}
    records[1] = replace(records[1], figures=figures, **changed)
    return write_run(folder, "conformance", [record.to_line() for record in records], schema=2)


CHANGES: list[tuple[dict[str, Any], str, int]] = [
    ({"status": "failed", "reason": "the last key is missing"}, "NEWLY FAILING", 1),
    ({"status": "crashed", "reason": "aborted"}, "NEWLY FAILING", 1),
    ({"status": "hung", "reason": "no progress"}, "NEWLY FAILING", 1),
    ({"status": "unsupported", "reason": "declares no window"}, "LOST", 1),
    ({"status": "inconclusive", "reason": "no time"}, "UNSURE", 6),
    ({"status": "known-failure", "reason": "in the ledger"}, "CHANGED", 1),
    ({"figures": figures_of({"max_ratio": 0.9}, {"max_ratio": "counted"})}, "NEARER", 0),
]


@pytest.mark.parametrize(("fields", "change", "code"), CHANGES)
def test_compare_tells_what_became_of_a_verdict(
    tmp_path: Path, fields: dict[str, Any], change: str, code: int
) -> None:
    base = conformance(tmp_path / "a")
    new = conformance(tmp_path / "b", **fields)
    found = compare_runs(read_run(base), read_run(new))
    told = [
        delta for delta in found.deltas if delta.change == change and delta.figure in ("status", "max_ratio")
    ]
    assert [delta.id for delta in told] == [read_run(new).records[1].id]
    assert found.exit_code == code
    back = compare_runs(read_run(new), read_run(base))
    assert back.exit_code == (6 if code == 6 else 0)


@pytest.mark.slow
def test_compare_of_a_kernel_that_lost_a_feature_fails_by_its_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two kernels that are both right in what they say they can; the second can less."""
    monkeypatch.chdir(tmp_path)
    less = own_kernel()
    more = less.replace("sm_scale):", "sm_scale, soft_cap=None):").replace(
        "            weights = ",
        "            logits = logits if soft_cap is None else soft_cap * np.tanh(logits / soft_cap)\n"
        "            weights = ",
    )
    words = ["--profile", "quick", "-k", "decode[soft-cap]", "--device", "emulated", "--in-process"]
    for name, text, code in (("base", more, 0), ("new", less, 5)):
        Path("kernel.py").write_text(text, encoding="utf-8")
        assert run(["conformance", "--backend", "kernel.py:decode", *words, "--out", name]) == code
    capsys.readouterr()
    assert run(["compare", "base", "new"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("WORSE: profile LOST: profile softcap, and 1 more")
    assert "kernel.py:decode decode[soft-cap]\n    passed -> unsupported" in out
    assert run(["compare", "new", "base"]) == 0


def test_compare_tells_a_lost_profile(tmp_path: Path) -> None:
    from pabench.checks.specification import PROFILES

    name, profile = next(iter(PROFILES.items()))
    lines = [check("k", wanted) for wanted in profile.needs]
    base = write_run(tmp_path / "a", "conformance", lines)
    new = write_run(
        tmp_path / "b", "conformance", [*lines[:-1], {**lines[-1], "status": "failed", "reason": "x"}]
    )
    found = compare_runs(read_run(base), read_run(new))
    (lost,) = [delta for delta in found.deltas if delta.label == f"profile {name}"]
    assert (str(lost.change), lost.base, lost.new) == ("LOST", "held", "broken")
    assert lost.reason == f"{profile.needs[-1]} failed"


def test_compare_knows_items_of_one_run_alone(tmp_path: Path) -> None:
    lines = timed_cells()
    base = write_run(tmp_path / "a", "sweep", lines[:3])
    frame = pabench.compare(base, write_run(tmp_path / "b", "sweep", lines[1:4]))
    told = frame[frame["figure"] == "status"].set_index("label")
    assert list(told["change"]) == ["UNSURE", "SAME", "SAME", "NEW"]
    assert told["reason"].iloc[0] == "not in the new run"
    assert frame.attrs["exit_code"] == 6


def test_compare_says_which_items_stand_twice(tmp_path: Path) -> None:
    lines = timed_cells()
    twice = write_run(tmp_path / "twice", "sweep", [*lines, *lines[:2]])
    base, new = read_run(write_run(tmp_path / "once", "sweep", lines)), read_run(twice)
    (note,) = compare_runs(base, new, parts=["counted"]).notes
    said = "2 items stand in several lines of {}, of which the last is compared (first: cell-0)"
    assert note == said.format(twice)
    assert compare_runs(base, base, parts=["counted"]).notes == ()


def other_machine(folder: Path) -> Path:
    stored = json.loads((folder / "run.json").read_text())
    stored["provenance"]["cpu"] = {"name": "Another One", "usable": 64, "count": 64}
    (folder / "run.json").write_text(json.dumps(stored))
    return folder


def test_compare_refuses_times_of_unlike_machines_and_shows_what_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, new = sweep(tmp_path / "a"), other_machine(sweep(tmp_path / "b"))
    assert run(["compare", str(base), str(new)]) == 4
    error = capsys.readouterr().err
    assert "unlike machines" in error
    assert "Another One" in error
    assert "--only verdicts,counted" in error
    assert run(["compare", str(base), str(new), "--only", "verdicts,counted"]) == 0
    assert "processor: " in capsys.readouterr().out


def refuse(words: Sequence[str], code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", *words]) == code
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


def test_compare_refuses_runs_that_have_nothing_to_do_with_one_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = str(sweep(tmp_path / "a"))
    judged = str(write_run(tmp_path / "b", "conformance", [check("k", "decode")]))
    empty = str(write_run(tmp_path / "c", "sweep", []))
    strange = str(write_run(tmp_path / "d", "sweep", [{**timed_cells()[0], "id": "other", "label": "other"}]))
    refuse([one, judged], 4, "sweep run", capsys)
    refuse([one, empty], 5, "holds no result", capsys)
    refuse([one, strange], 4, "no item in common", capsys)
    twin = str(write_run(tmp_path / "e", "sweep", [{**timed_cells()[0], "id": "other"}]))
    refuse([one, twin], 4, "(cell-0)', of the other", capsys)
    refuse([one, str(tmp_path / "nowhere")], 4, "does not exist", capsys)
    refuse([one, one, "--only", "clocks"], 4, "unknown class of figures 'clocks'", capsys)
    refuse([one, one, "--threshold", "0"], 4, "threshold", capsys)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("[[accept]]\nitem='*'\nreason='x'\n", "until is missing"),
        ("[[accept]]\nitem='*'\nreason='x'\nuntil='2030-01-01'\n", "must be a date"),
        ("[[accept]]\nitem='*'\nreason=' '\nuntil=2030-01-01\n", "reason = ' ': must be text"),
        ("[[accept]]\nitem='*'\nreason='x'\nuntil=2030-01-01\nwho='me'\n", "unknown field 'who'"),
        ("[accept]\n", "nothing else"),
        ("a=1\n", "nothing else"),
        ("[[accept", "not TOML"),
    ],
)
def test_compare_refuses_an_accept_file_that_says_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, rule: str
) -> None:
    one = str(sweep(tmp_path / "a"))
    (tmp_path / "accept.toml").write_text(text)
    refuse([one, one, "--accept", str(tmp_path / "accept.toml")], 4, rule, capsys)


def test_compare_lets_pass_what_is_accepted_until_its_day(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, new = str(sweep(tmp_path / "a")), str(sweep(tmp_path / "b", 1.05))
    file = tmp_path / "accept.toml"

    def accept(until: date, item: str = "cell-?", figure: str = "run_ns") -> int:
        entry = f"item = '{item}'\nfigure = '{figure}'\nreason = 'more masks'\nuntil = {until}\n"
        file.write_text(f"[[accept]]\n{entry}")
        return run(["compare", base, new, "--accept", str(file)])

    assert accept(date(2999, 1, 1)) == 0
    assert "accepted: more masks (until 2999-01-01)" in capsys.readouterr().out
    assert accept(date(2020, 1, 1)) == 1
    assert "accepted no longer, since 2020-01-01" in capsys.readouterr().out
    assert accept(date(2999, 1, 1), figure="plan_ns") == 1
    assert "nothing to accept" in capsys.readouterr().out


def test_compare_escapes_hostile_names_and_keeps_a_comment_short(tmp_path: Path) -> None:
    name = "<script>alert(1)</script> | ` @everyone"
    lines = [{**line, "lengths": f"{name} {place} {'x' * 400}"} for place, line in enumerate(timed_cells())]
    slow = [{**line, "run_ns": [9 * one for one in line["run_ns"]]} for line in lines]
    many = [{**line, "id": f"{line['id']}-{copy}"} for copy in range(10) for line in lines]
    more = [{**line, "id": f"{line['id']}-{copy}"} for copy in range(10) for line in slow]
    base, new = write_run(tmp_path / "a", "sweep", many), write_run(tmp_path / "b", "sweep", more)
    found = compare_runs(read_run(base), read_run(new))
    text = markdown(found)
    assert len(text) <= MARKDOWN_LIMIT
    assert "rows more." in text
    assert "<script" not in text
    assert "@everyone" not in text.replace("\\@everyone", "")
    from pabench.report.comparison_page import page_of

    assert "<script" not in page_of(found)


def test_compare_reads_a_run_that_was_cut_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, new = sweep(tmp_path / "a"), sweep(tmp_path / "b")
    with (new / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"kind": "sw')
    assert run(["compare", str(base), str(new)]) == 0
    assert "was cut short" in capsys.readouterr().out
