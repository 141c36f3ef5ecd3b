# SPDX-License-Identifier: Apache-2.0
"""Prompts with images: what can be said of them, what the cache makes of it, histories that hold some."""

from __future__ import annotations

from typing import Any

import pytest

from pabench.errors import InvalidCase
from pabench.judge.allocators.history import HistoryCase, history_from_dict
from pabench.judge.allocators.model import ModelAllocator
from pabench.judge.allocators.trial import Trial
from pabench.subjects.allocators.base import PageAllocator, PoolShape
from pabench.subjects.allocators.host import HostAllocator
from pabench.subjects.allocators.results import Prompt

SHAPE = PoolShape(num_pages=8, page_size=4, max_seqs=3, max_pages_per_seq=4)
WORDS: dict[str, Any] = {"stream": 1, "adapter": "", "salt": ""}
CAT, DOG = "5ca7", "d06"


def prompt(*images: tuple[int, int, str], tokens: int = 9) -> Prompt:
    return Prompt(tokens=(7,) * tokens, images=images)


@pytest.mark.parametrize("make", [HostAllocator, ModelAllocator])
@pytest.mark.parametrize(
    ("images", "pages"),
    [
        (((2, 4, CAT),), 2),
        (((2, 4, CAT), (8, 1, DOG)), 2),  # behind the pages that are cached
        (((2, 4, DOG),), 0),
        (((1, 4, CAT),), 0),
        ((), 0),
        (((2, 3, CAT),), 1),  # one token fewer on the second page
        (((2, 2, CAT), (4, 2, DOG)), 1),
    ],
)
def test_images_keep_prompts_apart(
    make: type[PageAllocator], images: tuple[tuple[int, int, str], ...], pages: int
) -> None:
    allocator = make(SHAPE)
    allocator.alloc(0, 8)
    allocator.commit(0, prompt((2, 4, CAT), tokens=8))
    assert len(allocator.lookup(prompt(*images)).pages) == pages


@pytest.mark.parametrize(
    "images",
    [5, [(0, 1)], [(0, 1, 7)], [(-1, 1, CAT)], [(0, 0, CAT)], [(8, 2, CAT)], [(0, 2, CAT), (1, 1, DOG)]],
)
def test_images_that_cannot_be_are_refused(images: Any) -> None:
    with pytest.raises(InvalidCase, match="image"):
        Prompt(tokens=(7,) * 9, images=images)


def history(**lookup: Any) -> HistoryCase:
    alloc = {"sequence": 0, "tokens": 8, "final_tokens": None, **WORDS, "images": [2, 4, 3]}
    steps = [("alloc", alloc), ("commit", {"sequence": 0, "tokens": 8})]
    steps.append(("lookup", {"tokens": 9, "turns": [], **WORDS, **lookup}))
    steps.append(("adopt", {"sequence": 1, "pages": []}))
    return HistoryCase(shape=SHAPE, operations=tuple(steps))


def test_images_of_histories_are_read_back() -> None:
    for case in (history(images=[2, 4, 3]), history()):
        assert history_from_dict(case.to_dict()) == case
    for images in ([2, 4], [2, 0, 3], [2, 4, 3, 5, 1, 3], "cat"):
        with pytest.raises(InvalidCase, match="image"):
            history_from_dict(history(images=images).to_dict())


class Blind(HostAllocator):
    """Sees no image."""

    def commit(self, sequence: int, prompt: Prompt) -> None:
        super().commit(sequence, Prompt(tokens=prompt.tokens))

    def lookup(self, prompt: Prompt) -> Any:
        return super().lookup(Prompt(tokens=prompt.tokens))


@pytest.mark.parametrize(
    ("images", "found"), [([2, 4, 3], None), ([2, 4, 9], "must find 0"), ([], "must find 0")]
)
def test_images_of_another_prompt_are_a_violation(images: list[int], found: str | None) -> None:
    trial = Trial(Blind(SHAPE))
    *before, last = history(**({"images": images} if images else {})).operations[:3]
    assert [trial.perform(step) for step in before] == [None, None]
    violation = trial.perform(last)
    assert violation is None if found is None else violation is not None and found in violation
