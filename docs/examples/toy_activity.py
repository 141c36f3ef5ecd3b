# SPDX-License-Identifier: Apache-2.0
"""The smallest plug: are these words palindromes?  All else, from workers to the report, is the engine's.

``python docs/examples/toy_activity.py --out runs/toy level noon word`` runs it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

from pabench.cli.main import main
from pabench.run.command import run_activity
from pabench.run.figures import figures_of
from pabench.run.options import activity_options, options_of
from pabench.run.plug import ActivityBase, Answer, BenchBase, Env, Facts
from pabench.run.record import Record, Status, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """One item: ``to_dict`` goes to the worker, ``blank`` is its record as long as nothing has run."""

    text: str
    id = label = property(lambda self: f"palindrome/{self.text}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def blank(self, device: str) -> Record:
        asked = {"kind": "toy", "id": self.id, "label": self.label, "device": device}
        return Record(**asked, subject=Subject(kind="word", name=self.text), status=Status.INTERRUPTED)


class ToyBench(BenchBase):
    def __init__(self, setup: Mapping[str, Any], env: Env) -> None:
        env.loading("a dictionary")

    def open(self) -> Mapping[str, Any]:
        return {"device": "none", "description": "no device"}

    def run(self, item: Mapping[str, Any]) -> Answer:
        word = Word(**item)
        if word.text == "crash":
            os.abort()
        if word.text == "hang":
            time.sleep(3600)
        figures = figures_of({"length_bytes": len(word.text)}, {"length_bytes": "counted"})
        right = word.text == word.text[::-1]
        status, said = (Status.PASSED, None) if right else (Status.FAILED, "not a palindrome")
        return Answer(record=replace(word.blank("none"), status=status, reason=said, figures=figures))


class Toy(ActivityBase):
    kind = "toy"
    bench = f"{Path(__file__).resolve()}:ToyBench"

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words

    def items(self, facts: Facts) -> Sequence[Word]:
        return [Word(text=text) for text in dict.fromkeys(self.words)]


@click.command()
@click.argument("words", nargs=-1)
@activity_options()
def command(words: tuple[str, ...], **given: Any) -> int:
    """Are these words palindromes?"""
    return run_activity(Toy(words), options_of("toy", given))


if __name__ == "__main__":
    main(command)
