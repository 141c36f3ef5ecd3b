# SPDX-License-Identifier: Apache-2.0
"""From operations of a history to calls of an allocator, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pabench.errors import InvalidCase, OutOfPages
from pabench.judge.allocators.contents import Contents, Reader
from pabench.judge.allocators.operations import READERS_ONLY, Operation, arguments
from pabench.judge.allocators.streams import cut_images, images_of, tokens_of, turns_of
from pabench.subjects.allocators.base import PageAllocator
from pabench.subjects.allocators.results import Hit, Prompt
from pabench.subjects.allocators.rounds import Call

REFUSALS = (OutOfPages, InvalidCase)


@dataclass(frozen=True, slots=True, eq=False)
class Refused:
    """An operation that raised what it may raise."""

    error: OutOfPages | InvalidCase


def call_of(name: str, given: dict[str, Any], hit: Hit, contents: Contents) -> Call:
    """Return what an allocator is called with by an operation; ``hit`` is the one that it is about."""
    if name == "alloc":
        return name, (given["sequence"], given["tokens"]), {"final_tokens": given["final_tokens"]}
    if name == "append_batch":
        return name, _spelled(given["sequences"], given["tokens"]), {}
    if name in ("lookup", "load"):
        return name, (_prompt(given, contents.page_size),), {}
    if name == "commit":
        return name, (given["sequence"], _committed(given, contents)), {}
    if name == "retain":
        return name, (_prompt(given, contents.page_size), given["priority"], given["seconds"]), {}
    if name in ("pin", "unpin"):
        return name, (hit,), {}
    if name == "adopt":
        found = replace(hit, pages=hit.pages + tuple(given["pages"]))
        return name, (given["sequence"], found), {}
    return name, (), arguments((name, given))


def in_order(given: dict[str, Any], order_of: str) -> dict[str, Any]:
    """Return a batch as the model has to be given it to serve it in the subject's order."""
    if order_of != "sequence" or "sequences" not in given:
        return given
    order = sorted(range(len(given["sequences"])), key=lambda at: given["sequences"][at])
    if any(len(values) != len(order) for values in given.values()):
        return given
    return {field: [values[at] for at in order] for field, values in given.items()}


def outcome_of(allocator: PageAllocator, call: Call) -> Any:
    """Make a call and return what it returns, or ``Refused``; anything else that it raises is raised."""
    name, given, named = call
    try:
        return getattr(allocator, name)(*given, **named)
    except REFUSALS as error:
        return Refused(error)


def _prompt(given: dict[str, Any], page_size: int) -> Prompt:
    turns, count = turns_of(given["stream"], given["turns"]), max(0, given["tokens"])
    tokens = tuple(tokens_of(turns, 0, count, page_size))
    images = cut_images(images_of(given.get("images", ())), count)
    return Prompt(tokens=tokens, adapter=given["adapter"], salt=given["salt"], images=images)


def _committed(given: dict[str, Any], contents: Contents) -> Prompt:
    reader = contents.live.get(given["sequence"], Reader(((0, 0),)))
    return reader.prompt(given["tokens"], contents.page_size)


def _spelled(sequences: list[int], tokens: list[int]) -> tuple[Any, Any]:
    """A batch as the protocol lets it be written: indices as an array, one count where all are equal."""
    one = len(sequences) == len(tokens) > 0 and len(set(tokens)) == 1
    return np.array(sequences, np.int64), tokens[0] if one else tokens


# --- in words -----------------------------------------------------------------------------------------------


def error_in(*outcomes: object) -> Exception | None:
    """Return the first refusal among outcomes, or None."""
    return next((outcome.error for outcome in outcomes if isinstance(outcome, Refused)), None)


def sensible(error: OutOfPages) -> bool:
    """Whether the counts of a refusal are a reason for it."""
    return error.needed > error.available >= 0


def name_of(outcome: object) -> str:
    """Return the name of an outcome: that of the error, or success."""
    return type(outcome.error).__name__ if isinstance(outcome, Refused) else "success"


def words_of(operation: Operation) -> str:
    """Return an operation as the allocator is told of it."""
    name, given = operation
    shown = {field: value for field, value in given.items() if field not in READERS_ONLY}
    return f"{name} {shown}"
