# SPDX-License-Identifier: Apache-2.0
"""A language model's run as the page shows it: the text, each token's margin, err/T by layer, the pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pabench.report.source import Line, Source
from pabench.report.words import DASH, digits, number, whole

SHOWN_STEPS = 12
"""Steps of one run whose pages are shown; the journal has all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """One token: its place, how it stands to dense attention, and its figures in words."""

    place: int
    state: str
    margin: str
    error: str
    room: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerView:
    """One answer: ``tightest`` are the tokens that had the least room."""

    name: str
    text: str
    count: int
    state: str
    said: str
    tightest: tuple[TokenView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerView:
    """Worst err/T of one layer in words, and as a share of the bound for its bar."""

    layer: int
    ratio: str
    share: float
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PageView:
    """One entry of a block table: ``state`` is ``own``, ``shared``, ``copied`` (in this step) or ``gone``."""

    page: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """The block tables after one step, and what happened in it."""

    step: int
    events: str
    tables: tuple[tuple[str, tuple[PageView, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRunView:
    """One run of a model at one page size."""

    title: str
    state: str
    reason: str
    prompts: tuple[tuple[str, str], ...]
    answers: tuple[AnswerView, ...]
    layers: tuple[LayerView, ...]
    worst: str
    figures: tuple[tuple[str, str], ...]
    steps: tuple[StepView, ...]


def build_language(source: Source) -> tuple[ModelRunView, ...]:
    """Return a view a run, in the order of the journals."""
    return tuple(_run(line) for line in source.models)


def _run(line: Line) -> ModelRunView:
    data = line.data
    ratios = [number(ratio) or 0.0 for ratio in data["ratios"]]
    worst = max(range(len(ratios)), key=ratios.__getitem__, default=0)
    pages = f"pages of {data['page_size']} from {data['allocator']}"
    return ModelRunView(
        title=f"{data['model']} through {data['subject']}, {pages}",
        state=line.state,
        reason=str(data.get("reason") or ""),
        prompts=tuple((str(prompt["text"]), whole(prompt["tokens"])) for prompt in data["prompts"]),
        answers=tuple(_answer(answer) for answer in data["answers"]),
        layers=tuple(_layer(place, ratio) for place, ratio in enumerate(ratios)),
        worst=f"{digits(ratios[worst])} in layer {worst}" if ratios else DASH,
        figures=(
            ("Rows of attention judged", whole(data.get("outputs"))),
            ("Prompt tokens found in shared pages", whole(data.get("hits"))),
            ("Pages copied", whole(data.get("copies"))),
            (f"Preemptions, by {data.get('preemption')}", whole(data.get("preemptions"))),
            ("Smallest margin", digits(number(data.get("margin")))),
            ("Largest error of a logit", digits(number(data.get("error")))),
            ("of which rounding alone", digits(number(data.get("noise")))),
        ),
        steps=_steps(data["steps"]),
    )


def _answer(data: Mapping[str, Any]) -> AnswerView:
    tokens = [_token(data, place) for place in range(len(data["token"]))]
    parted = data.get("parted")
    # what a margin leaves when both logits move by the error
    room = [
        float(margin) - 2 * float(error) for margin, error in zip(data["margin"], data["error"], strict=True)
    ]
    tightest = sorted(range(len(tokens)), key=room.__getitem__)[:3]
    said = "all as dense attention has them" if parted is None else f"parts from dense at token {parted}"
    return AnswerView(
        name=f"prompt {data['prompt']}, answer {data['answer']}",
        text=str(data["text"]),
        count=len(tokens),
        state="passed" if parted is None else tokens[parted].state,
        said=said,
        tightest=tuple(tokens[place] for place in tightest),
    )


def _token(data: Mapping[str, Any], place: int) -> TokenView:
    margin, error, noise = (float(data[name][place]) for name in ("margin", "error", "noise"))
    equal = data["token"][place] == data["dense"][place]
    return TokenView(
        place=place,
        state="passed" if equal else "inconclusive" if margin <= 2 * noise else "failed",
        margin=digits(margin),
        error=digits(error),
        room="a near tie" if margin <= 2 * noise else f"{digits(margin / error)} times" if error else "any",
    )


def _layer(place: int, value: float) -> LayerView:
    share = min(1.0, value)
    return LayerView(
        layer=place,
        ratio=digits(value),
        share=round(100 * share, 1),
        state="passed" if value <= 1 else "failed",
    )


def _steps(steps: list[Mapping[str, Any]]) -> tuple[StepView, ...]:
    """Steps in which somebody came or went or a page was copied, and the last two."""
    told = []
    for place, step in enumerate(steps):
        before = steps[place - 1]["tables"] if place else {}
        events = _events(step, before)
        # the last step but one shows the tables at their longest: then the last sequence goes
        if events or place >= len(steps) - 2:
            told.append(_step(step, events or "nobody came or went"))
    return tuple(told[: SHOWN_STEPS - 2] + told[-2:] if len(told) > SHOWN_STEPS else told)


def _events(step: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    said = []
    came = [name for name in step["tables"] if name not in before]
    went = [name for name in before if name not in step["tables"]]
    if came:
        said.append(f"{', '.join(came)} began")
    if went:
        said.append(f"{', '.join(went)} went")
    if step["preempted"]:
        said.append("the newest prompt was preempted")
    for copied in step["copied"]:
        why = {
            "write": "copied before a write",
            "swap-out": "to the swap store",
            "swap-in": "from the swap store",
        }
        moves = ", ".join(f"{source}→{target}" for source, target, _ in copied["pages"])
        said.append(f"{moves} {why.get(copied['why'], copied['why'])}")
    return "; ".join(said)


def _step(step: Mapping[str, Any], events: str) -> StepView:
    tables = step["tables"]
    held = [page for pages in tables.values() for page in pages]
    fresh = {target for copied in step["copied"] for _, target, _ in copied["pages"]}

    def view(page: int) -> PageView:
        if page < 0:
            return PageView(page="–", state="gone")
        state = "shared" if held.count(page) > 1 else "copied" if page in fresh else "own"
        return PageView(page=str(page), state=state)

    rows = tuple((name, tuple(view(page) for page in pages)) for name, pages in tables.items())
    return StepView(step=step["step"], events=events, tables=rows)
