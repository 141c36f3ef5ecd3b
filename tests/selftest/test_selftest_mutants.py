# SPDX-License-Identifier: Apache-2.0
"""``pabench selftest --mutants`` and ``--generate``, and what they are made of."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pabench.checks.suite import questions_for
from pabench.cli.main import run
from pabench.errors import EnvironmentRefused, UsageError
from pabench.resources import resource_dir
from pabench.run.plug import Facts
from pabench.selftest.calibration import Trial
from pabench.selftest.killing import Kill, MutantResult, MutantRunner, stages_of
from pabench.selftest.kills import Mutants, counts, record_of_mutant
from pabench.selftest.mutants import Mutant, load_mutants, mutated
from pabench.selftest.mutation import changes_of, excuse_for, generated, mutant_of
from pabench.selftest.own_subjects import SUBJECTS, subjects_of
from pabench.subjects.allocators.table import ALLOCATORS
from pabench.subjects.backends.own import OWN as OWN_BACKENDS
from pabench.subjects.registry import load_allocator
from tests.support.allocator_support import shape_of
from tests.support.probe import DEVICE

OWN = Path(__file__).resolve().parents[1] / "mutants"
KERNELS = resource_dir("kernels_cuda")
FIELDS: dict[str, Any] = {"bugs": (), "trigger": "any", "killed_by": "decode[normal]"}
QUESTIONS = {row.id for row in questions_for("allocator")}


def as_toml(*mutants: Mutant) -> str:
    fields = ("id", "file", "before", "after", "trigger", "killed_by")
    return "\n".join(
        "[[mutant]]\nbugs = []\n" + "\n".join(f"{name} = {json.dumps(getattr(m, name))}" for name in fields)
        for m in mutants
    )


# --- what a subject is made of ------------------------------------------------------------------------------


def test_selftest_mutants_subjects_are_all_of_ours_and_where_they_say() -> None:
    ours = {name for name, subject in ALLOCATORS.items() if not subject.peers} - {"model"}
    modules = {subject.name: subject.module for subject in SUBJECTS if subject.kind == "allocator"}
    assert modules.keys() == ours
    assert {subject.name for subject in SUBJECTS if subject.kind == "backend"} == OWN_BACKENDS.keys()
    for name, module in modules.items():
        assert type(load_allocator(name).make(DEVICE, shape_of(4, 4, 2, 2))).__module__ == module


def test_selftest_mutants_subjects_of_a_file() -> None:
    def names(file: str) -> set[str]:
        return {subject.name for subject in subjects_of(file)}

    assert names("pab/pool_stack.cuh") == {"ticket", "stack"}
    assert names("page_alloc_scan.cu") == {"scan"}
    assert names("subjects/allocators/host_pool.py") == {"host", "host-groups", "host-reuse"}
    assert names("subjects/allocators/host_groups.py") == {"host-groups"}
    assert names("subjects/backends/torch_sdpa.py") == {"torch-sdpa"}
    assert {"rawkernel", "rawkernel-mma"} <= names("pab/features.cuh")
    assert names("kernels/page_pool.py") == {"ticket", "stack"}
    assert names("judge/reference.py") == names("absent.cu") == set()


def in_file(file: str, killed_by: str) -> Mutant:
    return Mutant(id="m", file=file, before="a", after="b", **{**FIELDS, "killed_by": killed_by})


def test_selftest_mutants_stages_begin_with_the_named_check() -> None:
    mutant = in_file("subjects/allocators/host_groups.py", "allocator-decode")
    first, second, third = stages_of(mutant)
    assert first.questions == second.questions == ("allocator-decode",)
    assert (first.profile, second.profile, third.profile) == ("quick", "default", "quick")
    assert first.scope.features == ()
    assert set(third.questions) == QUESTIONS - set(first.questions)
    assert not first.checked
    unknown = in_file("subjects/allocators/host_groups.py", "race")
    spearhead, glance, everything = stages_of(unknown)
    assert spearhead.checked
    assert set(spearhead.questions) == set(glance.questions) == set(everything.questions) == QUESTIONS
    assert [(one.profile, one.hasty) for one in (spearhead, glance, everything)] == [
        ("glance", True),
        ("glance", True),
        ("quick", False),
    ]
    assert (spearhead.most, glance.most) == (6, None)
    assert glance.scope != everything.scope


def test_selftest_mutants_stages_without_a_name_end_on_the_checked_device() -> None:
    mutant = in_file("page_copy.cu", "any")
    stages = [stage for stage in stages_of(mutant) if stage.subject.name == "rawkernel"]
    about = [(one.profile, one.scope.max_head_dim, one.hasty, one.checked) for one in stages]
    assert about == [
        ("glance", 16, True, False),
        ("glance", 16, True, False),
        ("glance", None, True, False),
        ("quick", None, False, False),
        ("quick", 16, False, True),
    ]
    assert stages[2].scope.dtypes == ("bfloat16",)


def test_selftest_mutants_stages_ask_the_named_check_on_the_checked_device_at_last() -> None:
    mutant = in_file("paged_prefill.cu", "prefill[causal]")
    named = [stage for stage in stages_of(mutant) if stage.questions == ("prefill[causal]",)]
    assert {stage.subject.name for stage in named if stage.checked} == {stage.subject.name for stage in named}
    last = [*stages_of(mutant)][-1]
    assert (last.checked, last.profile, last.scope.max_head_dim) == (True, "quick", 16)


# --- made by rule -------------------------------------------------------------------------------------------

SOURCE = """\
// a < b in a comment
#include "a < b"
static_assert(4 < 5, "no");
template <int N> void f(int a, int b, const char* s) {
  if (a < b && s[0] == 7) a += 2;
  __syncthreads();
  f("a < b");
  x = a * page_stride;
  x = a * page_stride;
}
"""


def test_selftest_mutants_rules_change_code_alone() -> None:
    made = {(c.start, c.rule, SOURCE[c.start : c.end], c.after) for c in changes_of("a.cu", SOURCE)}
    texts = {(rule, before, after) for _, rule, before, after in made}
    assert texts >= {
        ("comparison", "<", "<="),
        ("logic", "&&", "||"),
        ("comparison", "==", "!="),
        ("number", "7", "8"),
        ("number", "0", "1"),
        ("assignment", "+=", "="),
        ("left-out", "__syncthreads();", ";"),
        ("arithmetic", "*", "+"),
        ("name", "page_stride", "token_stride"),
    }
    assert [start for start, _, before, _ in made if before == "<"] == [SOURCE.index("a < b && ") + 2]
    assert not {before for _, _, before, _ in made} & {"4", "5"}


def test_selftest_mutants_rules_give_mutants_that_fit_once() -> None:
    for change in changes_of("a.cu", SOURCE):
        mutant = mutant_of(change, SOURCE)
        assert SOURCE.count(mutant.before) == 1
        planted = SOURCE.replace(mutant.before, mutant.after)
        assert planted == SOURCE[: change.start] + change.after + SOURCE[change.end :]


def test_selftest_mutants_rules_excuse_what_changes_nothing_by_construction() -> None:
    text = (
        "__launch_bounds__(32 * kWarps, pick(3, 4)) f(int a) {\n  stall.point(1);\n  if (a < 7) g(32);\n}\n"
    )
    excused = {text[c.start : c.end] for c in changes_of("a.cu", text) if excuse_for(c, text)}
    judged = {text[c.start : c.end] for c in changes_of("a.cu", text) if not excuse_for(c, text)}
    assert excused == {"32", "*", "3", "4", "1"}
    assert judged == {"<", "7", "32"}


def test_selftest_mutants_generated_fit_the_kernels_and_repeat() -> None:
    made = generated(600, seed=3)
    assert made == generated(600, seed=3) != generated(600, seed=4)
    assert len({mutant.id for mutant in made}) == len(made)
    assert 570 < len(made) <= 600  # some are excused by rule
    assert not [mutant for mutant in made if "__launch_bounds__" in mutant.trigger]
    assert len({mutant.file for mutant in made}) > 8
    for mutant in made:
        assert mutated(mutant, KERNELS).count(mutant.after) >= 1
    with pytest.raises(UsageError, match=r"--generate 99999: the rules make \d+ mutants"):
        generated(99_999, seed=0)


FACTS = Facts(device="emulated", description="")


def test_selftest_mutants_resumed_patiently_judges_again_what_lived_in_haste() -> None:
    mutants = [
        Mutant(id=name, file="a.cu", before="a", after=name, **FIELDS) for name in ("dies", "lives", "new")
    ]
    hasty, patient = (Mutants(mutants, seeds=1, hasty=h, deadline_s=30, config={}) for h in (True, False))
    kill = Kill(check="decode[normal]", subject="rawkernel", text="wrong", max_ratio=7.0)
    done = [
        record_of_mutant(item.blank("emulated"), MutantResult(mutant=mutant, kills=(found,)))
        for item, mutant, found in zip(hasty.items(FACTS), mutants[:2], (kill, None), strict=False)
    ]
    assert hasty.config(FACTS) == patient.config(FACTS)
    assert not {item.id for item in hasty.items(FACTS)} & {item.id for item in patient.items(FACTS)}
    spared = [patient.spare(item, done) for item in patient.items(FACTS)]
    assert [None if one is None else str(one.status) for one in spared] == ["passed", None, None]
    assert spared[0] is not None
    assert spared[0].id == patient.items(FACTS)[0].id
    assert [hasty.spare(item, done) for item in hasty.items(FACTS)] == [None, None, None]


def test_selftest_mutants_lie_in_a_folder_that_ends_with_the_run(tmp_path: Path) -> None:
    plug = Mutants([LIVING], seeds=1, hasty=False, deadline_s=30, config={})
    scratch = Path(plug.setup()["scratch"])
    seen: list[list[str]] = []

    class Looking(MutantRunner):
        def _result(self, mutant: Mutant, kernels: Path | None, path: tuple[str, ...]) -> MutantResult:
            seen.append([one.name[:15] for one in scratch.iterdir()])
            return MutantResult(mutant=mutant)

    with Looking(seeds=[0], scratch=str(scratch)) as runner:
        runner.judge(LIVING)
    assert seen == [["pabench-mutant-"]]
    (scratch / "left").mkdir()  # by a worker that was ended
    del plug
    assert not scratch.exists()


# --- the verdict --------------------------------------------------------------------------------------------


def test_selftest_mutants_results_are_counted() -> None:
    mutant = Mutant(id="m", file="a.cu", before="a", after="b", **FIELDS)
    kill = Kill(check="decode[normal]", subject="rawkernel", text="wrong", max_ratio=7.0)
    other = Kill(check="poison", subject="rawkernel", text="wrong", max_ratio=3.0)
    results = [
        MutantResult(mutant=mutant, kills=(kill, kill)),
        MutantResult(mutant=mutant, kills=(other, kill)),
        MutantResult(mutant=mutant, kills=(kill, None), cases=60),
        MutantResult(mutant=mutant, refused="does not compile"),
    ]
    assert [result.status for result in results] == ["killed", "killed", "lives", "refused"]
    assert [result.smallest_ratio for result in results] == [7.0, 3.0, 7.0, None]
    (item,) = Mutants([mutant], seeds=2, hasty=False, deadline_s=30, config={}).items(FACTS)
    records = [record_of_mutant(item.blank("emulated"), result) for result in results]
    assert [str(record.status) for record in records] == ["passed", "passed", "failed", "unsupported"]
    assert records[2].reason == "survived 60 cases; 'a' -> 'b'"
    assert counts(records) == {"judged": 3, "killed": 2, "lives": 1, "by_another": 1}
    race = Kill(check="poison", subject="rawkernel", text="wrong", max_ratio=None, found=("race",))
    assert race.is_by("race")
    assert not race.is_by("init")


LIVING = Mutant(
    id="says-it-otherwise",
    file="subjects/allocators/host_state.py",
    before="return -(-tokens // self._page_size)",
    after="return (tokens + self._page_size - 1) // self._page_size",
    # a question of four histories, for it is asked with the case budget of both profiles
    **{**FIELDS, "killed_by": "allocator-invariants[long-rows]"},
)
CRASHING = Mutant(
    id="crashes",
    file="subjects/allocators/host_state.py",
    before="return -(-tokens // self._page_size)",
    after="import os; os.abort()",
    **{**FIELDS, "killed_by": "nothing that is known"},
)


def test_selftest_mutants_command_from_elsewhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Killed by name, killed by a crash, alive, not to be compiled, and of nobody: in one file."""
    (killed,) = (m for m in load_mutants(OWN / "allocators.toml") if m.id == "host-pages-rounded-down")
    text = (KERNELS / "kv_append.cu").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("#include"))
    broken = Mutant(
        id="no-code",
        file="kv_append.cu",
        before=line,
        after="int x = y;",
        **{**FIELDS, "killed_by": "append"},
    )
    path, json_file, out = tmp_path / "mine.toml", tmp_path / "kills.json", tmp_path / "run"
    path.write_text(as_toml(killed, CRASHING, LIVING, broken), encoding="utf-8")
    arguments = ["selftest", "--mutants", str(path), "--seeds", "1", "--json", str(json_file)]
    arguments += ["--out", str(out)]
    assert run(arguments) == 1
    said = capfd.readouterr().out
    assert re.search(r"^host-pages-rounded-down +1/1 +host/allocator-invariants", said, re.MULTILINE)
    assert re.search(r"^crashes +1/1 +host/", said, re.MULTILINE)
    lives = r"^LIVES says-it-otherwise in subjects/allocators/host_state\.py: survived \d+ cases"
    assert re.search(lives, said, re.MULTILINE)
    assert re.search(r"^NOT JUDGED no-code in kv_append\.cu: does not compile", said, re.MULTILINE)
    assert "2/3 killed in 1 of 1 seeds, 1 by another check than the one named, 1 not judged" in said
    told = json.loads(json_file.read_text())
    records = {entry["subject"]["name"]: entry for entry in told["records"]}
    assert (told["judged"], told["killed"], told["lives"]) == (3, 2, 1)
    assert records["crashes"]["details"]["text"].startswith("aborted (SIGABRT)")
    assert records["host-pages-rounded-down"]["details"]["text"].startswith("operation ")
    assert records["says-it-otherwise"]["figures"]["cases"]["value"] > 100
    assert run([*arguments, "--resume"]) == 1  # nothing is judged again
    assert capfd.readouterr().out == said
    assert len((out / "journal.jsonl").read_text().splitlines()) == 4


class FailingRunner:
    """Finds every mutant dead but one, breaks down over some, and is of no use afterwards."""

    broken = False

    def __init__(self, *_: object, **__: object) -> None: ...

    def close(self) -> None: ...

    def judge(self, mutant: Mutant) -> MutantResult:
        if self.broken:
            raise RuntimeError("used again after it broke down")
        self.broken = mutant.id in ("zero", "refused")
        if mutant.id == "zero":
            raise ZeroDivisionError("division\nby zero")
        if mutant.id == "refused":
            raise EnvironmentRefused("cannot write /x: No space left on device")
        kill = Kill(check="decode[normal]", subject="host", text="wrong", max_ratio=2.0)
        return MutantResult(mutant=mutant, kills=(kill if mutant.id != "alive" else None,))


def test_selftest_mutants_one_that_cannot_be_judged_loses_no_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pabench.selftest.kills.MutantRunner", FailingRunner)
    names = ("first", "zero", "refused", "second", "third")
    path = tmp_path / "mine.toml"
    path.write_text(
        as_toml(*(replace(LIVING, id=name, after=f"# {name}") for name in names)), encoding="utf-8"
    )
    arguments = ["selftest", "--mutants", str(path), "--seeds", "1", "--in-process", "--out"]
    assert run([*arguments, str(tmp_path / "five")]) == 6
    said = capfd.readouterr()
    killed = r"^{} +1/1 +host/decode\[normal\] +2$"
    assert all(
        re.search(killed.format(name), said.out, re.MULTILINE) for name in ("first", "second", "third")
    )
    place = r"\(test_selftest_mutants\.py:\d+ in judge\)"
    begin = r"judging it failed: ZeroDivisionError: division by zero"
    assert re.search(rf"^INCONCLUSIVE zero in \S+: {begin} {place}$", said.out, re.MULTILINE)
    refused = "INCONCLUSIVE refused in subjects/allocators/host_state.py: judging it failed: cannot write /x"
    assert refused in said.out
    assert "3/3 killed in 1 of 1 seeds, 3 by another check than the one named, 2 not judged" in said.out
    assert "Traceback" not in said.out + said.err
    lines = (tmp_path / "five" / "journal.jsonl").read_text().splitlines()
    statuses = [json.loads(line)["status"] for line in lines]
    assert statuses == ["passed", "inconclusive", "inconclusive", "passed", "passed"]
    path.write_text(
        as_toml(LIVING, replace(LIVING, id="zero"), replace(LIVING, id="alive")), encoding="utf-8"
    )
    # what is wrong weighs more than what is not known
    assert run([*arguments, str(tmp_path / "three")]) == 1


def test_selftest_mutants_runner_leaves_the_sources_alone() -> None:
    before = (KERNELS / "kv_append.cu").read_bytes()
    (mutant,) = (m for m in load_mutants(OWN / "kernels.toml") if m.id == "kv-head-modulo")
    with MutantRunner(seeds=[0]) as runner:
        result = runner.judge(mutant)
        assert (
            runner.judge(Mutant(id="m", file="ceilings.cu", before="a", after="b", **FIELDS)).refused
            == "no backend or allocator here is made of ceilings.cu"
        )
    assert result.status == "killed"
    assert result.smallest_ratio is not None
    assert result.smallest_ratio > 1
    assert (KERNELS / "kv_append.cu").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "exactly one thing to test must be named"),
        (["--mutants", "--controls"], "exactly one thing to test must be named"),
        (["--mutants", "--generate", "3"], "exactly one thing to test must be named"),
        (["--mutants", "absent.toml"], "cannot be read"),
        (["--mutants", "--only", "nobody"], "nobody"),
        (["--mutants", "--device", "cuda"], "--device: is for --controls"),
        (["--mutants", "--hasty"], "--hasty: is for --generate"),
        (["--calibrate", "9", "--hasty"], "--hasty: is for --generate"),
        (["--generate", "9", "--out", __file__], "is not a folder"),
        (["--generate", "0"], "0 is not in the range"),
        (["--calibrate", "0"], "0 is not in the range"),
        (["--calibrate", "9", "--json", "/absent/x.json"], "must be a file in an existing folder"),
    ],
)
def test_selftest_mutants_command_refuses(
    arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["selftest", *arguments]) == 4
    assert words in capfd.readouterr().err


# --- the bound on trial -------------------------------------------------------------------------------------


def test_selftest_calibrate_passes_right_kernels(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    json_file = tmp_path / "c.json"
    asked = ["selftest", "--calibrate", "120", "--seed", "5", "--json", str(json_file)]
    assert run([*asked, "--out", str(tmp_path / "run")]) == 0
    assert "120/120 right kernels pass, seed 5" in capfd.readouterr().out
    told = json.loads(json_file.read_text())
    ratios = [ratio for of_kind in told["largest_ratio"].values() for ratio in of_kind.values()]
    assert 0.3 < max(ratios) <= 1.0
    trials = [one["figures"]["trials"]["value"] for one in told["records"]]
    assert (trials, [one["details"]["failures"] for one in told["records"]]) == ([50, 50, 20], [[]] * 3)


def test_selftest_calibrate_shows_a_right_kernel_that_fails(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_alarm(*, start: int, stop: int, seed: int) -> list[Trial]:
        return [
            Trial(kind="plain", number=n, dtype="float16", ratio=n / 60, failure="why" if n == 70 else None)
            for n in range(start, stop)
        ]

    monkeypatch.setattr("pabench.selftest.bound.calibrate", one_alarm)
    asked = ["selftest", "--calibrate", "100", "--in-process", "--out", str(tmp_path / "run")]
    assert run(asked) == 1
    said = capfd.readouterr().out
    assert "FALSE ALARM why" in said
    assert re.search(r"^plain +- +1\.650 ", said, re.MULTILINE)
    assert "99/100 right kernels pass, seed 0" in said
