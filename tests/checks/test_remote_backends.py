# SPDX-License-Identifier: Apache-2.0
"""A backend in a process of its own is judged as one that is here, and reaches nobody else."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pabench.checks.outcome import Outcome, raised
from pabench.checks.plan_checks import check_plans
from pabench.checks.registry import CHECKS
from pabench.checks.remote.answers import error_of
from pabench.checks.remote.errors import SubjectEnded, SubjectRaised
from pabench.checks.remote.subject import ENTRY, RemoteSubject
from pabench.device.checked import CheckedDevice, KernelFindings
from pabench.device.registry import DeviceRequest
from pabench.errors import EnvironmentRefused, OutOfPages, PabenchError, UsageError
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.placement import HUGE_POOL
from pabench.run.workers import ForkServer
from pabench.strategies.attention import cases, huge_pool_cases
from pabench.strategies.cache import append_cases, merge_cases
from pabench.strategies.lengths import prefill_batches, speculative_batches
from pabench.subjects.backends.base import attend
from pabench.subjects.backends.rawkernel import RawKernelBackend
from pabench.subjects.process.raised import told
from pabench.subjects.registry import load_backend
from tests.run.test_workers import wait_until_dead
from tests.support.judging import PLACE, bare, said, tried
from tests.support.probe import DEVICE

EMULATED = DeviceRequest(name="emulated")
FILES = Path(__file__).parents[1] / "robust" / "backends"
BAD, REMOTE = "tests.support.bad_backends:", "tests.support.remote_backends:"
CASE = Case(
    problem=Problem(num_qo_heads=2, num_kv_heads=1, head_dim=16, page_size=4),
    batch=Batch(kv_lens=(9, 0, 43)),
    spare_pages=2,
)
FLAT = replace(CASE, batch=Batch(kv_lens=(9, 5)))


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    with ForkServer(ENTRY, path=[str(FILES)]) as made:
        yield made


@contextlib.contextmanager
def backend(fork_server: ForkServer, name: str, **options: Any) -> Iterator[RemoteSubject]:
    options = {"deadline_s": 120.0, **options}
    with RemoteSubject(fork_server, options.pop("device", EMULATED), "backend", name, **options) as subject:
        yield subject


SMALL: dict[str, Any] = {"head_dims": [16], "dtypes": ["float32", "float16"]}
STRATEGIES: dict[str, st.SearchStrategy[Any]] = {
    "attention": cases(**SMALL, max_len=60, features=("window", "sinks", "fp8-kv"), sharing=True),
    "append": append_cases(**SMALL),
    "merge": merge_cases(),
    "prefill": cases(**SMALL, batch=prefill_batches),
    "chunks": cases(**SMALL, batch=prefill_batches),
    "speculative": cases(**SMALL, batch=speculative_batches),
    "append-e4m3": append_cases(**SMALL, formats=("e4m3",)),
    "append-stored": append_cases(**SMALL, formats=("int4-token-head", "nvfp4")),
    "append-paged": append_cases(**SMALL, paged=True),
    "append-paged-huge-pool": append_cases(**SMALL, paged=True),
    "replay": cases(**SMALL, max_len=60, placements=("shuffled", "reversed")),
}


@pytest.mark.parametrize("name", CHECKS)
def test_remote_rawkernel_is_judged_as_here(fork_server: ForkServer, name: str) -> None:
    check, here = CHECKS[name], RawKernelBackend(DEVICE)
    outcomes = []
    with backend(fork_server, "rawkernel") as subject:

        @settings(
            max_examples=4,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @seed(11)
        @given(STRATEGIES[name if name in STRATEGIES else check.kind])
        def same(case: Any) -> None:
            local = tried(lambda: check.run(case, here, DEVICE))
            assert tried(lambda: subject.judge(check.run, case)) == local
            outcomes.append(local)

        same()
    assert any(isinstance(outcome, Outcome) and outcome.passed for outcome in outcomes), outcomes


@pytest.mark.parametrize("placement", [HUGE_POOL, "high"])
def test_remote_pools_larger_than_memory_are_lent(fork_server: ForkServer, placement: str) -> None:
    found = []
    with backend(fork_server, "rawkernel") as subject:

        @settings(max_examples=3, deadline=None, database=None, phases=[Phase.generate])
        @seed(5)
        @given(huge_pool_cases())
        def judged(case: Case) -> None:
            case = replace(case, placement=placement)
            for name in ("decode", "plans"):
                outcome = tried(lambda name=name: subject.judge(CHECKS[name].run, case))  # type: ignore[misc]
                found.append(said(outcome))
                assert isinstance(outcome, Outcome), outcome
                assert outcome.passed, outcome

        judged()
        begun = subject._arena
        subject.begin_case()
        assert begun.held_bytes <= 2**26
    assert len(found) >= 6


LOCALLY_JUDGED = (
    *("Nan", "NoLse", "NoOutput", "Raises", "ReturnsNothing", "ReturnsTuple", "ReturnsView", "WrongShape"),
    *("WrongType", "WritesPastTheOutput", "ClaimsFloat32Weights", "EatsMemory", "Babbles", "Good"),
)


@pytest.mark.parametrize("name", LOCALLY_JUDGED)
def test_remote_bad_backends_get_the_words_they_get_here(
    fork_server: ForkServer, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    local = tried(lambda: CHECKS["decode"].run(CASE, load_backend(BAD + name, DEVICE), DEVICE))
    with backend(fork_server, BAD + name) as subject:
        remote = tried(lambda: subject.judge(CHECKS["decode"].run, CASE))
    assert isinstance(local, Outcome)
    assert isinstance(remote, Outcome)
    assert bare(remote) == bare(local)
    assert remote.passed == (name in ("Good", "Babbles"))
    if local.crashed and "Error: fetch" not in local.text:
        assert PLACE.search(remote.text), remote.text
        assert remote.text == local.text


@pytest.mark.parametrize(
    ("name", "check", "words"),
    [
        ("Exits", "decode", r"exited with status 0"),
        ("Segfaults", "decode", r"killed by SIGSEGV .* in string_at .*"),
        ("Forks", "decode", r"forked: a copy of the process came back from the backend"),
        ("ReadsPastTheTable", "guard", r"killed by SIGSEGV .* in run \(bad_backends.py:\d+\)"),
        ("WritesPastTheOutput", "guard", r"killed by SIGSEGV .*"),
        ("KeepsItsAnswer", "replay", r"run again after its arrays changed: .*"),
        ("AcceptsAnything", "reject", r".* \(.*\): must be refused, was accepted"),
        ("SharesWorkspace", "plans", r"plan 1 of two: .*"),
        # what it is lent cannot be written, and the line that tries is named
        ("ChangesQueries", "decode", r"ValueError: .* read-only \(stub_backends.py:\d+ in fetch\)"),
        ("ChangesTable", "decode", r"ValueError: .* read-only \(bad_backends.py:\d+ in fetch\)"),
    ],
)
def test_remote_bad_backends_are_seen(fork_server: ForkServer, name: str, check: str, words: str) -> None:
    with backend(fork_server, BAD + name) as subject:
        outcome = tried(lambda: subject.judge(CHECKS[check].run, CASE))
        assert isinstance(outcome, Outcome)
        assert not outcome.passed
        assert re.fullmatch(words, outcome.text), outcome
        # and the next case finds a process that works
        again = tried(lambda: subject.judge(CHECKS[check].run, CASE))
        assert said(again) == said(outcome)


def test_remote_hang_is_told_with_its_place(fork_server: ForkServer) -> None:
    with backend(fork_server, BAD + "Loops", deadline_s=2.0) as subject:
        outcome = tried(lambda: subject.judge(CHECKS["decode"].run, CASE))
        assert re.fullmatch(r"hung: no progress for 2 s in run \(isolation_backends.py:\d+\)", said(outcome))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ReturnsGenerator", r"out is generator, must be a numpy array"),
        ("ReturnsText", r"out is str, must be a numpy array"),
        ("ReturnsList", r"out is list, must be a numpy array"),
        ("ReturnsLazy", r"out is Lazy, must be a numpy array"),
        ("ReturnsObjects", r"out has dtype object, must be float32"),
        ("ReturnsOtherOrder", r"out has dtype >f4, must be float32"),
        ("ReturnsLyingZeros", r"sequence .* got 0, .*"),
        ("ReturnsMasked", r"out is MaskedArray, must be a numpy array"),
        ("ReturnsHonestSubclass", r"right: .*"),
    ],
)
def test_remote_nonsense_is_described_and_judged_here(fork_server: ForkServer, name: str, words: str) -> None:
    with backend(fork_server, REMOTE + name) as subject:
        outcome = subject.judge(CHECKS["decode"].run, CASE)
    assert re.fullmatch(words, outcome.text), outcome
    assert outcome.passed == (name == "ReturnsHonestSubclass")


@pytest.mark.parametrize("name", ["OneOutput", "OneWorkspace", "one_output_for_all_calls"])
@pytest.mark.parametrize("where", ["here", "there"])
def test_remote_one_output_for_all_calls_is_seen(fork_server: ForkServer, name: str, where: str) -> None:
    if where == "here":
        outcome = check_plans(FLAT, load_backend(REMOTE + name, DEVICE), DEVICE)
    else:
        with backend(fork_server, REMOTE + name) as subject:
            outcome = subject.judge(check_plans, FLAT)
    assert not outcome.passed
    words = r"plan 1 of two: " + (r"another call changes .*" if name == "OneOutput" else r"sequence .*")
    assert re.fullmatch(words, outcome.text), outcome


def test_remote_right_function_passes_the_plans(fork_server: ForkServer) -> None:
    with backend(fork_server, REMOTE + "right") as subject:
        assert subject.judge(check_plans, FLAT).passed


@pytest.mark.parametrize("name", ["ChangesDirectory", "RoundsDown", "ClearsEnvironment", "LooksForTruth"])
def test_remote_tampering_stays_where_it_is(fork_server: ForkServer, name: str) -> None:
    before = (Path.cwd(), dict(os.environ), np.float32(1) / np.float32(3), np.abs(-1.0))
    with backend(fork_server, REMOTE + name) as subject:
        assert subject.judge(CHECKS["decode"].run, CASE).passed
    assert before == (Path.cwd(), dict(os.environ), np.float32(1) / np.float32(3), np.abs(-1.0))
    with backend(fork_server, str((FILES / "good.py").relative_to(Path.cwd())) + ":decode") as subject:
        assert subject.judge(CHECKS["decode"].run, CASE).passed


def test_remote_patched_numpy_moves_no_verdict(fork_server: ForkServer) -> None:
    with backend(fork_server, REMOTE + "PatchesNumpy") as subject:
        for _ in range(2):
            assert not subject.judge(CHECKS["decode"].run, CASE).passed
    assert not np.isnan(1.0)


def test_remote_closed_descriptors_are_an_end_by_name(fork_server: ForkServer) -> None:
    with backend(fork_server, REMOTE + "ClosesDescriptors") as subject:
        outcome = tried(lambda: subject.judge(CHECKS["decode"].run, CASE))
        assert isinstance(outcome, Outcome)
        assert not outcome.passed
        assert outcome.crashed


def test_remote_inputs_cannot_be_written(fork_server: ForkServer) -> None:
    with backend(fork_server, REMOTE + "WritesInputs") as subject:
        assert subject.judge(CHECKS["decode"].run, CASE).passed
    with backend(fork_server, REMOTE + "WritesThroughMemory") as subject:
        outcome = tried(lambda: subject.judge(CHECKS["decode"].run, CASE))
        assert said(outcome).startswith("killed by SIGSEGV"), outcome


def test_remote_conditions_are_asked_over_there(fork_server: ForkServer) -> None:
    with backend(fork_server, REMOTE + "HasRule") as subject:
        why_not = subject.backend.capabilities.why_not
        assert why_not(CASE) == "two sequences at most"
        assert why_not(FLAT) is None
        assert why_not(replace(CASE, problem=replace(CASE.problem, dtype="float16"))) == "no dtype float16"
    with backend(fork_server, REMOTE + "HasReason") as subject:
        assert subject.backend.capabilities.why_not(replace(CASE, seed=13)) == "not today"
        assert subject.backend.capabilities.why_not(CASE) is None
    with backend(fork_server, "rawkernel") as subject:
        assert subject.backend.capabilities.rule is None
        assert subject.backend.capabilities == RawKernelBackend.capabilities
        assert subject.backend.profile == RawKernelBackend.profile
        assert (subject.backend.captures, subject.backend.takes_resident) == (True, True)


def test_remote_errors_arrive_as_what_they_are(fork_server: ForkServer) -> None:
    with backend(fork_server, REMOTE + "RaisesOurs") as subject:

        def error(number: int, kind: type[Exception]) -> Any:
            with pytest.raises(kind) as found:
                attend(subject.backend, build_tensors(replace(CASE, seed=number)))
            return found.value

        lack = error(1, OutOfPages)
        assert (lack.needed, lack.available, str(lack)) == (7, 3, "7 rows needed, 3 available")
        mine = error(2, PabenchError)
        assert (type(mine), str(mine), mine.hint) == (PabenchError, "mine", "take another one")
        words = str(error(3, SubjectRaised))
        assert words.startswith("Unspeakable: (its text cannot be had: RuntimeError) (remote_backends.py:")
        long = error(4, SubjectRaised)
        assert str(long).startswith("ValueError: \\ud800xxx")
        assert len(str(long)) < 600
        assert len(long.traceback) <= 8_000
        inside = error(5, SubjectRaised)
        assert re.fullmatch(r"ValueError: cannot reshape .* \(remote_backends.py:\d+ in plan\)", str(inside))
        assert "Traceback (most recent call last)" in inside.traceback
        # it went on all the time
        assert subject.lives == 1


def test_remote_findings_of_a_checked_device_arrive(fork_server: ForkServer) -> None:
    checked = DeviceRequest(name="emulated", checked=True)
    place = REMOTE + "ReadsBehind"
    with pytest.raises(KernelFindings) as here:
        attend(load_backend(place, CheckedDevice()), build_tensors(CASE))
    with backend(fork_server, place, device=checked) as subject, pytest.raises(KernelFindings) as there:
        attend(subject.backend, build_tensors(CASE))
    # where the memory lies that is strayed into differs from process to process
    marks = [
        [(one.check, one.kernel, one.nbytes, one.count, one.at.place) for one in error.findings]
        for error in (here.value, there.value)
    ]
    assert marks[0] == marks[1]
    assert raised(there.value).findings
    assert not raised(there.value).crashed
    again = error_of(json.loads(json.dumps(told(here.value))))
    assert raised(again) == raised(here.value)


def test_remote_loading_is_refused_as_here(fork_server: ForkServer) -> None:
    refused: list[tuple[str, type[Exception], str]] = [
        ("no-such-backend", UsageError, "unknown backend"),
        ("tests.support.stub_backends:NoCapabilities", UsageError, "has no 'capabilities'"),
        ("tests.support.stub_backends:CannotStart", UsageError, "the vendor's library is missing"),
        ("tests.support.isolation_backends:DiesAtLoad", EnvironmentRefused, r"cannot be loaded: aborted"),
    ]
    for name, kind, words in refused:
        with pytest.raises(kind, match=words), backend(fork_server, name):
            pass
    with (
        pytest.raises(EnvironmentRefused, match="cannot be loaded: hung"),
        backend(fork_server, "tests.support.isolation_backends:HangsAtLoad", deadline_s=0.5),
    ):
        pass


def test_remote_subject_lives_on_after_its_process(
    fork_server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    # the fork server has the environment of its start
    with ForkServer(ENTRY) as own, backend(own, REMOTE + "DiesFirst") as subject:
        subject.begin_case()
        plan = subject.backend.plan(build_tensors(CASE))
        with pytest.raises(SubjectEnded, match="SIGABRT") as ended:
            subject.backend.run(plan)
        assert not isinstance(ended.value, Exception)
        assert subject.lives == 1
        attend(subject.backend, build_tensors(CASE))
        assert subject.lives == 2
        with pytest.raises(SubjectEnded, match="gone with it"):
            subject.backend.fetch(plan)
        assert subject.judge(CHECKS["decode"].run, CASE).passed
        subject.restart()
        assert subject.judge(CHECKS["repeat"].run, CASE).passed


def test_remote_subject_leaves_no_process_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIDS", str(tmp_path / "pids"))
    with ForkServer(ENTRY) as own, backend(own, REMOTE + "LeavesProcesses") as subject:
        assert subject.judge(CHECKS["decode"].run, CASE).passed
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    for pid in pids:
        wait_until_dead(pid)


# --- files as strangers write them ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("good.py:decode", r"right: .*"),
        ("a[/b].py:decode", r"right: .*"),
        ("chd.py:decode", r"right: .*"),
        ("leaves_daemon.py:decode", r"right: .*"),
        ("wrong.py:decode", r"sequence .*"),
        ("cheat_patches_the_judge.py:decode", r"sequence .* got 0, .*"),
        ("exc_surrogate.py:decode", r"ValueError: lone surrogate \\ud800 \(exc_surrogate.py:2 in decode\)"),
        ("exc_terminal.py:decode", r"ValueError: .*red.* \(exc_terminal.py:2 in decode\)"),
    ],
)
def test_remote_files_of_strangers(fork_server: ForkServer, name: str, words: str) -> None:
    with backend(fork_server, str(FILES / name)) as subject:
        outcome = tried(lambda: subject.judge(CHECKS["decode"].run, CASE))
    assert isinstance(outcome, Outcome)
    assert re.fullmatch(words, outcome.text, re.DOTALL), outcome
    assert outcome.passed == words.startswith("right")
    outcome.text.encode()


def test_remote_files_of_strangers_are_all_tried() -> None:
    tried_files = {
        str(mark[0]).partition(":")[0]
        for mark in test_remote_files_of_strangers.pytestmark[0].args[1]  # type: ignore[attr-defined]
    }
    assert tried_files == {str(path.relative_to(FILES)) for path in FILES.rglob("*.py")}


def test_remote_cheat_changes_no_verdict_beside_it(fork_server: ForkServer) -> None:
    for name in ("cheat_patches_the_judge.py", "wrong.py", "cheat_patches_the_judge.py"):
        with backend(fork_server, str(FILES / name) + ":decode") as subject:
            assert not subject.judge(CHECKS["decode"].run, CASE).passed
    with backend(fork_server, str(FILES / "good.py") + ":decode") as subject:
        assert subject.judge(CHECKS["decode"].run, CASE).passed
