# SPDX-License-Identifier: Apache-2.0
"""Other projects' allocators: what the ledger says of them happens, and nothing else does.

Each adapter's tests skip where its package is not installed; ``make test-peers`` installs them all.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pabench.checks.case_budget import CASE_BUDGETS
from pabench.checks.failures import load_case
from pabench.checks.ledger import Deviation, shipped_ledger
from pabench.checks.record import CheckRecord
from pabench.checks.registry import ALLOCATOR_CHECKS
from pabench.cli import doctor_peers
from pabench.cli.main import run
from pabench.errors import EXIT_ENVIRONMENT, EXIT_FAILURE, EXIT_NOTHING_RAN, EXIT_OK, InvalidCase, Unsupported
from pabench.judge.allocators.history import HistoryCase
from pabench.judge.allocators.trial import Trial
from pabench.subjects.allocators.groups import KvGroup
from pabench.subjects.allocators.results import NULL_PAGE, Prompt
from pabench.subjects.allocators.table import ALLOCATORS
from pabench.subjects.peers.package import ThirdPartyPackage
from pabench.subjects.registry import load_allocator
from tests.support.allocator_support import make_allocator, shape_of
from tests.support.kill_support import ask
from tests.support.probe import DEVICE

LEDGER = shipped_ledger("allocator")
PEERS = [name for name, entry in ALLOCATORS.items() if entry.peers]
PAIR = shape_of(2, 4, 2, 2)


def need(name: str) -> None:
    try:
        load_allocator(name)
    except Unsupported as lacking:
        pytest.skip(str(lacking))


def known(name: str) -> tuple[Deviation, ...]:
    version = ALLOCATORS[name].version()
    return tuple(entry for entry in LEDGER if entry.holds_for(name, str(version)))


def examine(name: str, deviations: tuple[Deviation, ...], *, decode: bool = False) -> CheckRecord:
    case_budget = replace(CASE_BUDGETS["quick"], machine_runs=20, shrink=False)
    check = "allocator-decode" if decode else "allocator-invariants"
    return ask(check, load_allocator(name), DEVICE, case_budget=case_budget, name=name, known=deviations)


def alloc(sequence: int, tokens: int) -> tuple[str, dict[str, Any]]:
    given = {"sequence": sequence, "tokens": tokens, "final_tokens": None}
    return "alloc", {**given, "stream": 0, "adapter": "", "salt": ""}


# --- the ledger holds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("deviation", LEDGER, ids=lambda entry: entry.case)
def test_peers_do_what_the_ledger_says(deviation: Deviation) -> None:
    need(deviation.adapter)
    saved = load_case(deviation.folder)
    assert isinstance(saved.case, HistoryCase)
    assert (saved.subject, saved.check in deviation.checks) == (deviation.adapter, True)
    for check in deviation.checks:
        new = partial(make_allocator, deviation.adapter, DEVICE)
        outcome = ALLOCATOR_CHECKS[check].run(saved.case, new, DEVICE)
        assert deviation.explains(check, saved.case, outcome), outcome.text
        # and no other entry does: a deviation has one name
        explained = [e.name for e in known(deviation.adapter) if e.explains(check, saved.case, outcome)]
        assert explained == [deviation.name]
    assert (deviation.folder / "verdict.txt").read_text().strip() == outcome.text


@pytest.mark.parametrize("name", PEERS)
def test_peers_do_nothing_that_the_ledger_does_not_say(name: str) -> None:
    need(name)
    record = examine(name, known(name))
    assert record.outcome is None
    assert record.deviations.keys() == {entry.name for entry in known(name)}
    seen = record.deviations.values()
    assert not seen or sum(one["cases"] for one in seen) > 2 * len(seen)
    assert record.cases >= 20
    assert examine(name, known(name), decode=True).outcome is None


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("vllm-kv-groups", "allocator-invariants[groups]"),
        ("vllm-prefix-cache", "allocator-invariants[images]"),
    ],
)
def test_peers_do_nothing_else_where_they_declare_more(name: str, question: str) -> None:
    need(name)
    case_budget = replace(CASE_BUDGETS["quick"], machine_runs=40, shrink=False)
    record = ask(
        question, load_allocator(name), DEVICE, case_budget=case_budget, name=name, known=known(name)
    )
    assert record.outcome is None
    assert record.deviations
    assert record.cases >= 8


@pytest.mark.parametrize("name", PEERS)
def test_peers_refuse_too_much_and_stay_as_they_were(name: str) -> None:
    need(name)
    trial = Trial(make_allocator(name, DEVICE, shape_of(5, 4, 3, 4)))
    end = ("free", {"sequences": [0]})
    steps = [
        alloc(0, 9),
        alloc(1, 16),
        ("append", {"sequence": 0, "tokens": 7}),
        alloc(1, 5),
        end,
        ("drain", {}),
    ]
    for step in steps:
        assert trial.perform(step) is None


def test_peers_deviation_that_nobody_knows_is_a_failure() -> None:
    first, *others = known("torch-paged")
    assert others
    outcome = examine("torch-paged", tuple(others)).outcome
    assert outcome is not None
    assert "gave success, must give InvalidCase" in outcome.text
    assert first.name not in {entry.name for entry in others}


def test_peers_entry_that_no_longer_happens_is_a_failure() -> None:
    stale = replace(known("torch-paged")[0], says="never said")
    outcome = examine("torch-paged", (stale,)).outcome
    assert outcome is not None
    words = f"known deviation '{stale.name}' does not happen any more: operation 3"
    assert outcome.text.startswith(words)


def test_peers_versions_beyond_the_ledger_are_judged_without_it() -> None:
    entry = next(entry for entry in LEDGER if entry.adapter == "vllm-block-pool")
    assert entry.holds_for("vllm-block-pool", "0.33.0+cu130")
    assert not entry.holds_for("vllm-block-pool", "0.33.1")
    assert not entry.holds_for("vllm-block-pool", "0.32.9")
    assert not entry.holds_for("vllm-kv-cache-manager", "0.33.0")


# --- which part of a package runs ---------------------------------------------------------------------------


def test_sglang_has_an_allocator_of_its_own_for_tokens() -> None:
    need("sglang-paged")
    kinds = []
    for size in (1, 4):
        allocator: Any = make_allocator("sglang-paged", DEVICE, shape_of(8, size, 2, 4))
        kinds.append(type(allocator._pool).__name__)
        allocator.alloc(0, 3)
        allocator.free([0])
        assert allocator.free_pages == 8
    assert kinds == ["TokenToKVPoolAllocator", "PagedTokenToKVPoolAllocator"]


def test_vllm_finds_a_prefix_until_its_last_copy_is_gone() -> None:
    need("vllm-prefix-cache")
    allocator = make_allocator("vllm-prefix-cache", DEVICE, shape_of(6, 2, 3, 4))
    prompt = Prompt(tokens=(5, 6, 7, 8), adapter="lora")
    for sequence in (0, 1):
        allocator.alloc(sequence, 4)
        allocator.commit(sequence, prompt)
    longer = replace(prompt, tokens=(*prompt.tokens, 9))
    first, second = allocator.pages(0), allocator.pages(1)
    assert allocator.lookup(longer).pages == first
    assert allocator.lookup(replace(longer, adapter="other")).pages == ()
    allocator.free([0])
    assert (allocator.free_pages, allocator.evictable_pages) == (2, 2)
    allocator.alloc(2, 8)  # takes what was cached first
    assert allocator.lookup(longer).pages == second
    allocator.free([1, 2])
    allocator.adopt(0, allocator.lookup(longer))
    assert allocator.pages(0) == second


def test_vllm_finds_of_a_window_what_the_next_token_sees() -> None:
    need("vllm-hybrid-cache")
    groups = (KvGroup(kind="full", page_size=4), KvGroup(kind="window", page_size=4, window=5))
    allocator = make_allocator("vllm-hybrid-cache", DEVICE, replace(shape_of(12, 4, 3, 4), groups=groups))
    prompt = Prompt(tokens=tuple(range(5, 13)))
    allocator.alloc(0, 8)
    allocator.commit(0, prompt)
    held = allocator.block_table()[0].tolist()
    allocator.free([0])
    found = allocator.lookup(replace(prompt, tokens=(*prompt.tokens, 99)))
    # behind 8 tokens a window of 5 sees the last four of them
    assert found.pages == (*held[:2], NULL_PAGE, held[5])
    allocator.adopt(1, found)
    assert allocator.block_table()[1, [0, 1, 4, 5]].tolist() == list(found.pages)


def test_sglang_goes_on_with_the_pages_of_its_tree_and_evicts_whole_nodes() -> None:
    need("sglang-radix-cache")
    allocator = make_allocator("sglang-radix-cache", DEVICE, shape_of(8, 2, 3, 6))
    prompt = Prompt(tokens=(5, 6, 7, 8, 9, 10), adapter="lora")
    longer = replace(prompt, tokens=(*prompt.tokens, 11))
    for sequence in (0, 1):
        allocator.alloc(sequence, 7)
        allocator.commit(sequence, prompt)
    assert allocator.pages(0)[:3] == allocator.pages(1)[:3] == allocator.lookup(longer).pages
    assert allocator.lookup(replace(longer, adapter="other")).pages == ()
    assert allocator.lookup(replace(longer, salt="mine")).pages == ()
    assert (allocator.free_pages, allocator.evictable_pages) == (3, 0)
    allocator.free([0])
    allocator.free([1])
    assert (allocator.free_pages, allocator.evictable_pages) == (5, 3)
    stale = allocator.lookup(longer)
    allocator.alloc(2, 12)  # one page is missing, and three go
    assert (allocator.free_pages, allocator.evictable_pages) == (2, 0)
    with pytest.raises(InvalidCase, match="must be cached still"):
        allocator.adopt(0, stale)


# --- what follows from the defects --------------------------------------------------------------------------


def test_vllm_double_free_loses_the_pool_at_the_next_allocation() -> None:
    need("vllm-block-pool")
    allocator = make_allocator("vllm-block-pool", DEVICE, PAIR)
    allocator.alloc(0, 1)
    allocator.free([0])
    allocator.free([0])
    assert allocator.refcounts().tolist() == [0, -1, 0]  # type: ignore[union-attr]
    with pytest.raises(InvalidCase, match="AssertionError"):
        allocator.alloc(1, 8)
    assert allocator.free_pages == 0


def test_vllm_negative_count_inflates_the_pool() -> None:
    need("vllm-block-pool")
    allocator = make_allocator("vllm-block-pool", DEVICE, PAIR)
    assert allocator.alloc(0, -1).slots.tolist() == []
    assert (allocator.free_pages, allocator.length(0)) == (3, None)


def test_sglang_double_free_gives_one_page_to_two() -> None:
    need("sglang-paged")
    allocator = make_allocator("sglang-paged", DEVICE, PAIR)
    allocator.alloc(0, 4)
    allocator.free([0])
    allocator.free([0])
    assert allocator.free_pages == 3
    allocator.alloc(0, 4)
    allocator.alloc(1, 4)
    assert allocator.pages(0) == allocator.pages(1)


def test_transformers_double_free_stops_half_way() -> None:
    need("transformers-block-manager")
    allocator = make_allocator("transformers-block-manager", DEVICE, PAIR)
    for sequence in (0, 1):
        allocator.alloc(sequence, 1)
    allocator.free([0])
    with pytest.raises(InvalidCase, match="KeyError"):
        allocator.free([1, 0])
    assert (allocator.free_pages, allocator.length(1)) == (2, 1)


def test_transformers_double_free_takes_the_page_of_another() -> None:
    need("transformers-block-manager")
    allocator = make_allocator("transformers-block-manager", DEVICE, PAIR)
    allocator.alloc(0, 1)
    allocator.free([0])
    allocator.alloc(1, 5)
    allocator.free([0])
    allocator.alloc(0, 4)
    assert set(allocator.pages(0)) < set(allocator.pages(1))


# --- commands -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_conformance_names_known_deviations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["conformance", "--allocator", "torch-paged", "--profile", "quick", "--device", "emulated"]
    words += ["-k", "allocator-invariants", "--artifacts", str(out), "--json", str(tmp_path / "result.json")]
    assert run(words) == EXIT_OK
    printed = capsys.readouterr().out
    assert "KNOWN torch-paged allocator-invariants: double-free: erase of a row" in printed
    assert "0 passed, 0 failed, 0 crashed, 0 unsupported, 1 with known deviations alone" in printed
    data = json.loads((tmp_path / "result.json").read_text())
    (line,) = data["results"]
    assert (data["totals"]["known_failure"], line["status"]) == (1, "known-failure")
    assert {one["name"] for one in line["deviations"]} == {"double-free", "negative-count"}
    page = (out / "report.html").read_text()
    assert "1 check found known deviations alone, named below" in page
    assert "pabench replay suites/findings/torch-paged-double-free" in page


def test_conformance_of_an_absent_package_is_unsupported_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PABENCH_PEERS", str(tmp_path))
    if not _absent("vllm-block-pool"):
        pytest.skip("vllm is installed where pabench is")
    result = tmp_path / "result.json"
    words = [
        "conformance",
        "--in-process",
        "--allocator",
        "vllm-block-pool",
        "--device",
        "emulated",
        "-k",
        "allocator-invariants",
    ]
    words += ["--artifacts", str(tmp_path / "run"), "--json", str(result)]
    assert run(words) == EXIT_NOTHING_RAN
    (line,) = json.loads(result.read_text())["results"]
    assert line["status"] == "unsupported"
    assert line["reason"].startswith("vllm is not installed: pip install --no-deps --target ")


def test_replay_of_a_finding_prints_its_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    folder = next(entry.folder for entry in LEDGER if entry.adapter == "torch-paged")
    assert run(["replay", "--in-process", str(folder)]) == EXIT_FAILURE
    assert (folder / "verdict.txt").read_text().strip() in capsys.readouterr().out


def test_doctor_peers_says_how_to_install_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PABENCH_PEERS", str(tmp_path))
    monkeypatch.delenv("COLUMNS", raising=False)  # tests side by side have one
    if not _absent("sglang-paged"):
        pytest.skip("sglang is installed where pabench is")
    assert run(["doctor", "--peers"]) == EXIT_OK
    command = f"pip install --no-deps --target {tmp_path} sglang==0.5.23"
    assert f"sglang missing: sglang is not installed: {command}" in capsys.readouterr().out
    assert run(["doctor", "--peers", "--json"]) == EXIT_OK
    peers = json.loads(capsys.readouterr().out)["peers"]
    assert peers["torch"]["allocators"] == ["torch-paged"]
    assert "problem" not in peers["torch"]
    assert run(["doctor", "--peers", "--strict"]) == EXIT_ENVIRONMENT


def test_doctor_peers_misses_no_package_of_which_one_adapter_needs_a_newer_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "transformers").mkdir()
    about = tmp_path / "transformers-5.17.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 5.17.0\n")
    monkeypatch.setenv("PABENCH_PEERS", str(tmp_path))
    monkeypatch.setattr(ThirdPartyPackage, "load", lambda self: {})
    monkeypatch.setattr(doctor_peers, "_device", lambda: None)
    row = doctor_peers.peer_facts()["transformers"]
    assert row["version"] == "5.17.0"
    assert "problem" not in row
    assert [*row["without"]] == ["transformers-paged-cache"]
    assert "must be 5.24.0 or newer" in row["without"]["transformers-paged-cache"]
    monkeypatch.setenv("COLUMNS", "10000")
    assert run(["doctor", "--peers"]) == EXIT_OK
    said = "without transformers-paged-cache (transformers 5.17.0 in "
    assert said in capsys.readouterr().out


def _absent(name: str) -> bool:
    try:
        ALLOCATORS[name].version()
    except Unsupported:
        return True
    return False
