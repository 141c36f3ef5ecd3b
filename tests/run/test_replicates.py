# SPDX-License-Identifier: Apache-2.0
"""Lines of replicates become the record of their item, and nothing that went wrong is averaged away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pabench.run.figures import figures_of
from pabench.run.record import Record, Status, Subject
from pabench.run.replicates import by_replicate, folded


def line(
    replicate: int | None,
    *,
    item: str = "cell",
    status: Status = Status.PASSED,
    samples: tuple[float, ...] | None = (1.0, 2.0),
    rate: float | None = 5.0,
    pages: int = 4,
    **details: Any,
) -> Record:
    told = {"run_ns": None if samples is None else list(samples), "achieved_gbps": rate, "num_pages": pages}
    words = {"run_ns": "measured", "achieved_gbps": "measured", "num_pages": "counted"}
    several = {} if replicate is None else {"item": item, "replicate": replicate}
    return Record(
        kind="sweep",
        id=item if replicate is None else f"{item}-{replicate}",
        label=item,
        subject=Subject(kind="backend", name="k"),
        device="cuda",
        status=status,
        reason=None if status == Status.PASSED else "wrong",
        figures=figures_of(told, words),
        details={**several, **details},
        duration_s=1.5,
    )


def test_replicates_are_one_record_with_the_samples_of_all_in_the_order_of_the_processes() -> None:
    lines = [
        line(2, samples=(3.0,), rate=7.0, timing={"calls": 2}, flags=["unstable"]),
        line(1, item="other"),
        line(1, samples=(1.0, 2.0), rate=5.0, timing={"calls": 1}, flags=[]),
        line(3, samples=(4.0, 5.0), rate=6.0, flags=["unstable", "short"]),
    ]
    made, other = folded(lines)
    assert (made.id, made.status, made.duration_s) == ("cell", "passed", 4.5)
    assert made.figures["run_ns"].value == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert made.figures["achieved_gbps"].value == 6.0
    assert made.figures["num_pages"].value == 4
    assert by_replicate(made, "run_ns") == [[1.0, 2.0], [3.0], [4.0, 5.0]]
    assert made.details["flags"] == ["unstable", "short"]
    assert [one["replicate"] for one in made.details["replicates"]] == [1, 2, 3]
    assert [one.get("timing") for one in made.details["replicates"]] == [{"calls": 1}, {"calls": 2}, None]
    assert [one["figures"] for one in made.details["replicates"]] == [
        {"achieved_gbps": rate} for rate in (5.0, 7.0, 6.0)
    ]
    assert not {"item", "replicate"} & made.details.keys()
    assert other.id == "other"
    assert by_replicate(other, "run_ns") == [1.0, 2.0]


def test_replicates_that_are_none_stay_as_they_are() -> None:
    alone = line(None)
    assert folded([alone]) == (alone,)
    assert by_replicate(alone, "run_ns") == [1.0, 2.0]
    # details of a plug of somebody else's that have the same names and another meaning
    for details in ({"item": "cell"}, {"item": "cell", "replicate": "1"}, {"item": 3, "replicate": 1}):
        theirs = replace(alone, id="theirs", details=details)
        assert folded([theirs, alone]) == (theirs, alone)


@pytest.mark.parametrize("status", [Status.CRASHED, Status.HUNG, Status.FAILED, Status.INCONCLUSIVE])
def test_one_replicate_that_goes_wrong_is_what_the_item_came_to(status: Status) -> None:
    lines = [line(1), line(2, status=status, samples=None, rate=None), line(3)]
    (made,) = folded(lines)
    assert (made.status, made.reason) == (status, "in 1 of 3 processes: wrong")
    assert made.figures["run_ns"].value is None
    assert "replicates" not in made.details


def test_replicates_that_all_go_wrong_alike_say_it_once() -> None:
    (made,) = folded(
        [line(1, status=Status.FAILED, samples=None), line(2, status=Status.FAILED, samples=None)]
    )
    assert (made.status, made.reason) == (Status.FAILED, "wrong")


def test_replicates_that_were_cut_short_count_only_where_there_is_nothing_else() -> None:
    cut = line(2, status=Status.INTERRUPTED, samples=None, rate=None)
    (made,) = folded([line(1), cut])
    assert (made.status, made.figures["run_ns"].value) == ("passed", [1.0, 2.0])
    (alone,) = folded([cut])
    assert (alone.status, alone.figures["run_ns"].value) == ("interrupted", None)


@pytest.mark.parametrize(
    "told",
    [7, [1, 2], [{"samples": 3}, {}], [{"samples": {"run_ns": 9}}] * 2, [{"samples": {"run_ns": "1"}}] * 2],
)
def test_replicates_of_a_line_that_lies_about_its_samples_are_one_series(told: Any) -> None:
    assert by_replicate(line(None, replicates=told), "run_ns") == [1.0, 2.0]
