"""The file of fates that a search goes on from, and what a search learns on its way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pabench.errors import UsageError
from pabench.selftest.experience import Experience
from pabench.selftest.fates import FateFile
from pabench.selftest.killing import Fate, Kill
from pabench.selftest.matrix import kill_matrix
from pabench.selftest.mutants import Mutant
from pabench.selftest.own_subjects import units_of

MUTANT = Mutant(
    id="m", file="ceilings.cu", before="a", after="b", bugs=(), trigger="any", killed_by="decode[normal]"
)
KILL = Kill(check="append", subject="rawkernel", text="wrong", max_ratio=float("inf"), found=("race",))


def test_selftest_fates_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "fates.jsonl"
    killed = Fate(mutant=MUTANT, kills=(KILL, KILL))
    refused = Fate(mutant=replace(MUTANT, after="c"), refused="does not compile: why")
    file = FateFile(path, seeds=(0, 1), hasty=False)
    assert file.known(MUTANT) is None
    for fate in (killed, refused):
        file.add(fate)
    again = FateFile(path, seeds=(0, 1), hasty=False)
    found = again.known(MUTANT)
    assert found is not None
    assert (found.status, found.killed, found.to_json()) == ("killed", 2, killed.to_json())
    assert again.known(refused.mutant) == refused
    assert again.known(replace(MUTANT, before="changed")) is None
    assert FateFile(path, seeds=(0, 1, 2), hasty=False).known(MUTANT) is None


def test_selftest_fates_are_known_after_their_file_moved(tmp_path: Path) -> None:
    path = tmp_path / "fates.jsonl"
    today = replace(MUTANT, file="subjects/allocators/host.py")
    FateFile(path, seeds=(0,), hasty=False).add(Fate(mutant=today, kills=(KILL,)))
    path.write_text(path.read_text().replace("subjects/allocators/", "allocators/"))
    known = FateFile(path, seeds=(0,), hasty=False).known(today)
    assert known == Fate(mutant=today, kills=(KILL,))
    path.write_text(path.read_text().replace('"allocators/host.py"', "3"))
    with pytest.raises(UsageError, match="line 1 is not the fate of a mutant"):
        FateFile(path, seeds=(0,), hasty=False)


def test_selftest_fates_of_a_hasty_search_are_no_verdict_on_who_lives(tmp_path: Path) -> None:
    path = tmp_path / "fates.jsonl"
    hasty = FateFile(path, seeds=(0,), hasty=True)
    hasty.add(Fate(mutant=MUTANT, kills=(None,), cases=8))
    other = replace(MUTANT, after="c")
    hasty.add(Fate(mutant=other, kills=(KILL,)))
    assert FateFile(path, seeds=(0,), hasty=True).known(MUTANT) is not None
    patient = FateFile(path, seeds=(0,), hasty=False)
    assert patient.known(MUTANT) is None
    assert patient.known(other) is not None
    patient.add(Fate(mutant=MUTANT, kills=(KILL,)))
    last = FateFile(path, seeds=(0,), hasty=True).known(MUTANT)
    assert last is not None
    assert last.status == "killed"


def test_selftest_fates_survive_a_torn_line_and_refuse_another_file(tmp_path: Path) -> None:
    path = tmp_path / "fates.jsonl"
    FateFile(path, seeds=(0,), hasty=False).add(Fate(mutant=MUTANT, kills=(KILL,)))
    whole = path.read_text()
    path.write_text(whole + whole[: len(whole) // 2])
    torn = FateFile(path, seeds=(0,), hasty=False)
    assert torn.known(MUTANT) is not None
    torn.add(Fate(mutant=replace(MUTANT, after="c"), kills=(None,), cases=3))
    assert len(path.read_text().splitlines()) == 2
    assert FateFile(path, seeds=(0,), hasty=False).known(replace(MUTANT, after="c")) is not None
    path.write_text(whole + '{"cases": 3}\n')
    with pytest.raises(UsageError, match="line 2 is not the fate of a mutant"):
        FateFile(path, seeds=(0,), hasty=False)


def test_selftest_fates_are_added_as_they_fall_and_not_looked_for_again(tmp_path: Path) -> None:
    path = tmp_path / "fates.jsonl"
    first = kill_matrix([MUTANT], seeds=[0], file=FateFile(path, seeds=[0], hasty=False))
    assert first[0].refused == "no backend or allocator here is made of ceilings.cu"
    assert len(path.read_text().splitlines()) == 1
    path.write_text(path.read_text().replace("made of ceilings.cu", "made of this"))
    second = kill_matrix([MUTANT], seeds=[0], file=FateFile(path, seeds=[0], hasty=False))
    assert second[0].refused == "no backend or allocator here is made of this"
    assert len(path.read_text().splitlines()) == 1


NORMAL, LONG, APPEND = "decode[normal]", "decode[long]", "append"


def test_selftest_fates_experience_leads_with_what_kills_most_a_second() -> None:
    learned, questions = Experience(), (NORMAL, LONG, APPEND)
    # named after the file: before anything is known
    assert learned.order("s", "kv_append.cu", None, questions)[0] == APPEND
    assert learned.order("s", "paged_decode.cu", None, questions) == (
        NORMAL,
        LONG,
        APPEND,
    )
    for question, seconds in ((NORMAL, 4.0), (LONG, 1.0), (APPEND, 1.0)):
        learned.passed("s", question, seconds=seconds, reached=["paged_decode.cu"])
    assert learned.order("s", "paged_decode.cu", None, questions) == (
        LONG,
        NORMAL,
        APPEND,
    )
    for _ in range(40):
        learned.killed("paged_decode.cu", NORMAL)
    assert learned.order("s", "paged_decode.cu", None, questions) == (
        NORMAL,
        LONG,
        APPEND,
    )
    assert learned.order("s", "paged_prefill.cu", None, questions)[0] == LONG


@pytest.mark.parametrize("seconds", [0.0, 0.0004, 1e-300])
def test_selftest_fates_experience_ranks_a_test_that_took_no_time(seconds: float) -> None:
    learned, tests = Experience(), ("slow", "fast", "other")
    learned.passed("s", "fast", seconds=seconds, reached=[])
    learned.passed("s", "slow", seconds=4.0, reached=[])
    assert learned.order("s", "a.cu", None, tests) == ("fast", "other", "slow")
    # however short, it does not lead for ever those that kill
    for _ in range(3000):
        learned.killed("a.cu", "other")
    assert learned.order("s", "a.cu", None, tests) == ("other", "fast", "slow")


def test_selftest_fates_experience_leaves_out_who_cannot_see_the_fault() -> None:
    learned, questions = Experience(), ("decode[normal]", "append")
    units = frozenset({"kv_append.cu"})
    assert set(learned.order("s", "pab/to_odd.cuh", units, questions)) == {"decode[normal]", "append"}
    learned.passed("s", "decode[normal]", seconds=1.0, reached=["paged_decode.cu"])
    learned.passed("s", "append", seconds=1.0, reached=["paged_decode.cu", "kv_append.cu"])
    assert learned.order("s", "pab/to_odd.cuh", units, questions) == ("append",)
    # other cases may reach it, and a Python file is in all of them
    assert set(learned.order("wider", "pab/to_odd.cuh", units, questions)) == {"decode[normal]", "append"}
    assert set(learned.order("s", "kernels/append.py", None, questions)) == {"decode[normal]", "append"}


def test_selftest_fates_units_are_the_files_that_include_a_header() -> None:
    assert units_of("kv_append.cu") == frozenset({"kv_append.cu"})
    assert units_of("pab/to_odd.cuh") == frozenset({"kv_append.cu", "kv_gather.cu"})
    assert units_of("pab/pool_stack.cuh") == frozenset({"page_alloc_pool.cu"})
    assert units_of("subjects/allocators/host.py") is None
