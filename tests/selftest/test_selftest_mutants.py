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
from pabench.selftest.killing import Fate, Kill, Killer, stages_of
from pabench.selftest.matrix import counts
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
    assert names("subjects/allocators/host_pool.py") == {"host"}
    assert names("subjects/backends/torch_sdpa.py") == {"torch-sdpa"}
    assert {"rawkernel", "rawkernel-mma"} <= names("pab/features.cuh")
    assert names("kernels/page_pool.py") == {"ticket", "stack"}
    assert names("judge/reference.py") == names("absent.cu") == set()


def test_selftest_mutants_stages_begin_with_the_named_check() -> None:
    mutant = Mutant(
        id="m",
        file="subjects/allocators/host.py",
        before="a",
        after="b",
        **{**FIELDS, "killed_by": "allocator-decode"},
    )
    first, second, third = stages_of(mutant)
    assert first.questions == second.questions == ("allocator-decode",)
    assert (first.profile, second.profile, third.profile) == ("quick", "default", "quick")
    assert first.scope.features == ()
    assert set(third.questions) == QUESTIONS - set(first.questions)
    assert not first.checked
    unknown = Mutant(
        id="m", file="subjects/allocators/host.py", before="a", after="b", **{**FIELDS, "killed_by": "race"}
    )
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
    mutant = Mutant(id="m", file="page_copy.cu", before="a", after="b", **{**FIELDS, "killed_by": "any"})
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


# --- the verdict --------------------------------------------------------------------------------------------


def test_selftest_mutants_fates_are_counted() -> None:
    mutant = Mutant(id="m", file="a.cu", before="a", after="b", **FIELDS)
    kill = Kill(check="decode[normal]", subject="rawkernel", text="wrong", max_ratio=7.0)
    other = Kill(check="poison", subject="rawkernel", text="wrong", max_ratio=3.0)
    fates = [
        Fate(mutant=mutant, kills=(kill, kill)),
        Fate(mutant=mutant, kills=(other, kill)),
        Fate(mutant=mutant, kills=(kill, None), cases=60),
        Fate(mutant=mutant, refused="does not compile"),
        Fate(mutant=mutant, error="judging it failed: OSError: gone"),
    ]
    assert [fate.status for fate in fates] == ["killed", "killed", "lives", "refused", "error"]
    assert [fate.smallest_ratio for fate in fates] == [7.0, 3.0, 7.0, None, None]
    wanted = {"mutants": 5, "judged": 3, "killed": 2, "lives": 1, "refused": 1, "errors": 1, "by_another": 1}
    assert counts(fates) == wanted
    race = Kill(check="poison", subject="rawkernel", text="wrong", max_ratio=None, found=("race",))
    assert race.is_by("race")
    assert not race.is_by("init")


LIVING = Mutant(
    id="says-it-otherwise",
    file="subjects/allocators/host_state.py",
    before="return -(-tokens // self._page_size)",
    after="return (tokens + self._page_size - 1) // self._page_size",
    # a question of four histories, for it is asked with the effort of both profiles
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
    path, json_file = tmp_path / "mine.toml", tmp_path / "fates.json"
    path.write_text(as_toml(killed, CRASHING, LIVING, broken), encoding="utf-8")
    arguments = ["selftest", "--mutants", str(path), "--seeds", "1", "--json", str(json_file)]
    arguments += ["--out", str(tmp_path / "fates.jsonl")]
    assert run(arguments) == 1
    said = capfd.readouterr().out
    assert re.search(r"^host-pages-rounded-down +1/1 +host/allocator-invariants", said, re.MULTILINE)
    assert re.search(r"^crashes +1/1 +host/", said, re.MULTILINE)
    lives = r"^LIVES says-it-otherwise \(subjects/allocators/host_state\.py\): survived \d+ cases"
    assert re.search(lives, said, re.MULTILINE)
    assert re.search(r"^REFUSED no-code \(kv_append\.cu\): does not compile", said, re.MULTILINE)
    assert "2/3 killed in 1 of 1 seeds, 1 by another check than the one named, 1 not judged" in said
    results = {entry["id"]: entry for entry in json.loads(json_file.read_text())["results"]}
    assert results["crashes"]["text"].startswith("aborted (SIGABRT)")
    assert results["host-pages-rounded-down"]["text"].startswith("operation ")
    assert results["says-it-otherwise"]["cases_survived"] > 100
    assert run(arguments) == 1  # nothing is judged again
    assert capfd.readouterr().out.splitlines()[:-1] == said.splitlines()[:-1]
    assert json.loads(json_file.read_text())["results"] == list(results.values())


class FailingKiller:
    """Finds every mutant dead but one, breaks down over some, and is of no use afterwards."""

    broken = False

    def __init__(self, *_: object, **__: object) -> None: ...

    def __enter__(self) -> FailingKiller:
        return self

    def __exit__(self, *_: object) -> None: ...

    def judge(self, mutant: Mutant) -> Fate:
        if self.broken:
            raise RuntimeError("used again after it broke down")
        self.broken = mutant.id in ("zero", "refused")
        if mutant.id == "zero":
            raise ZeroDivisionError("division\nby zero")
        if mutant.id == "refused":
            raise EnvironmentRefused("cannot write /x: No space left on device")
        kill = Kill(check="decode[normal]", subject="host", text="wrong", max_ratio=2.0)
        return Fate(mutant=mutant, kills=(kill if mutant.id != "alive" else None,))


def test_selftest_mutants_one_that_cannot_be_judged_loses_no_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pabench.selftest.matrix.Killer", FailingKiller)
    names = ("first", "zero", "refused", "second", "third")
    path, fates, json_file = tmp_path / "mine.toml", tmp_path / "fates.jsonl", tmp_path / "fates.json"
    path.write_text(
        as_toml(*(replace(LIVING, id=name, after=f"# {name}") for name in names)), encoding="utf-8"
    )
    arguments = ["selftest", "--mutants", str(path), "--seeds", "1", "--json", str(json_file)]
    assert run([*arguments, "--out", str(fates)]) == 3
    said = capfd.readouterr()
    killed = r"^{} +1/1 +host/decode\[normal\] +2$"
    assert all(
        re.search(killed.format(name), said.out, re.MULTILINE) for name in ("first", "second", "third")
    )
    place = r"\(test_selftest_mutants\.py:\d+\)"
    failed = rf"^ERROR zero \(\S+\): judging it failed: ZeroDivisionError: division by zero {place}$"
    assert re.search(failed, said.out, re.MULTILINE)
    assert "ERROR refused (subjects/allocators/host_state.py): judging it failed: cannot write /x" in said.out
    assert (
        "3/3 killed in 1 of 1 seeds, 3 by another check than the one named, 2 with an internal error"
        in said.out
    )
    assert "Traceback" not in said.out + said.err
    results = json.loads(json_file.read_text())["results"]
    assert [entry["status"] for entry in results] == ["killed", "error", "error", "killed", "killed"]
    # an error is no verdict to go on from
    assert len(fates.read_text().splitlines()) == 3
    path.write_text(
        as_toml(LIVING, replace(LIVING, id="zero"), replace(LIVING, id="alive")), encoding="utf-8"
    )
    assert run(arguments) == 1  # what is wrong weighs more than what is not known
    path.write_text(as_toml(replace(LIVING, id="zero")), encoding="utf-8")
    assert run(arguments) == 3


def test_selftest_mutants_killer_leaves_the_sources_alone() -> None:
    before = (KERNELS / "kv_append.cu").read_bytes()
    (mutant,) = (m for m in load_mutants(OWN / "kernels.toml") if m.id == "kv-head-modulo")
    with Killer(seeds=[0]) as killer:
        fate = killer.judge(mutant)
        assert (
            killer.judge(Mutant(id="m", file="ceilings.cu", before="a", after="b", **FIELDS)).refused
            == "no backend or allocator here is made of ceilings.cu"
        )
    assert fate.status == "killed"
    assert fate.smallest_ratio is not None
    assert fate.smallest_ratio > 1
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
        (["--calibrate", "9", "--out", "x.jsonl"], "--out: is for --mutants and --generate"),
        (["--generate", "9", "--out", "/absent/x.jsonl"], "--out '/absent/x.jsonl': must be a file"),
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
    assert run(["selftest", "--calibrate", "120", "--seed", "5", "--json", str(json_file)]) == 0
    assert "120/120 right kernels pass, seed 5" in capfd.readouterr().out
    record = json.loads(json_file.read_text())
    ratios = [ratio for of_kind in record["largest_ratio"].values() for ratio in of_kind.values()]
    assert 0.3 < max(ratios) <= 1.0
    assert (record["trials"], record["false_alarms"], record["failures"]) == (120, 0, [])
