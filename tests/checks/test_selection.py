# SPDX-License-Identifier: Apache-2.0
"""``-k``: the ids that a run prints, and what is said of a name that is none of them."""

from __future__ import annotations

import pytest

from pabench.checks.selection import select
from pabench.checks.suite import QUESTIONS
from pabench.errors import UsageError

IDS = [row.id for row in QUESTIONS]


@pytest.mark.parametrize("name", IDS)
def test_selection_of_a_printed_id_is_that_question(name: str) -> None:
    labelled = [other for other in IDS if other.partition("[")[0] == name]
    assert select(name) == ((name,) if name in IDS else tuple(labelled))


@pytest.mark.parametrize(
    ("expression", "chosen"),
    [
        ("reject", ["reject"]),
        ("append-reject, reject", ["reject", "append-reject"]),
        ("decode[needle] or gather", ["decode[needle]", "gather"]),
        ("decode[needle],gather", ["decode[needle]", "gather"]),
        ("decode", [name for name in IDS if name.startswith("decode[")]),
        ("decode[*]", [name for name in IDS if name.startswith("decode[")]),
        ("merge", [name for name in IDS if name.startswith("merge[")]),
        ("*-e4m3", ["append-e4m3"]),
        ("*fp8-kv*", ["decode[fp8-kv]", "prefill[fp8-kv]"]),
        ("decode[?lib*]", ["decode[alibi]"]),
        ("needle", ["decode[needle]"]),
        ("huge-pool", [name for name in IDS if name.endswith("[huge-pool]")]),
        ("long", ["decode[long]", "prefill[long]"]),
        ("append", ["append"]),
        ("append*", [name for name in IDS if name.startswith("append")]),
        ("*high* and not decode*", [n for n in IDS if "high" in n and not n.startswith("decode")]),
        ("not decode and not prefill", [n for n in IDS if n.split("[")[0] not in ("decode", "prefill")]),
        ("decode and not decode", []),
        ("  gather  ", ["gather"]),
    ],
)
def test_selection_means(expression: str, chosen: list[str]) -> None:
    assert list(select(expression)) == chosen


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("needel", "no question is called 'needel' (known: decode[needle], "),
        ("rejct", "no question is called 'rejct' (known: reject, "),
        ("gather, nothing", "no question is called 'nothing' (known: "),
        ("decode[needel]", "no question is called 'decode[needel]' (known: decode[needle], "),
        ("xyz*", "no question is called 'xyz*' (known: "),
        ("", "has an empty place in the list"),
        (" ", "has an empty place in the list"),
        ("gather,", "has an empty place in the list"),
        ("gather,,reject", "has an empty place in the list"),
        ("gather and", "ends where a name must follow"),
        ("not", "ends where a name must follow"),
        ("gather reject", "'reject' must not stand there"),
        ("and gather", "'and' must not stand there"),
        ("not not gather", "'not' must not stand there"),
        ("(gather)", "no question is called '(gather)' (known: "),
    ],
)
def test_selection_refuses_in_one_line(expression: str, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        select(expression)
    said = str(refused.value)
    assert said.startswith(f"-k {expression!r}: ")
    assert words in said
    assert "\n" not in said


def test_selection_names_every_check_to_who_guesses() -> None:
    with pytest.raises(UsageError) as refused:
        select("zzz")
    assert {row.check.id for row in QUESTIONS} <= set(str(refused.value).replace("; ", ", ").split(", ")) | {
        str(refused.value).partition("known: ")[2].split(",")[0]
    }
