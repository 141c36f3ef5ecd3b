# SPDX-License-Identifier: Apache-2.0
"""Masks that name keys: spans of images, trees of drafts, lists of tokens and of pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.batch import Batch
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array
from pabench.problem.layout import pages_needed
from pabench.problem.masks.mask import Choose, Mask, Rows, per_sequence
from pabench.problem.problem import Problem

SPANS, TREE, TOKENS, PAGES = "image-spans", "draft-tree", "token-lists", "page-lists"
NONE = -1
"""Entry of a list that names nothing, and parent of a draft that has none."""


def _read_spans(value: Any, problem: Problem, batch: Batch) -> tuple[tuple[tuple[int, int], ...], ...]:
    found = []
    for i, (spans, kv_len) in enumerate(zip(per_sequence(SPANS, value, batch), batch.kv_lens, strict=True)):
        last, mine = 0, []
        for j, span in enumerate(_entries(f"{SPANS}[{i}]", spans)):
            name = f"{SPANS}[{i}][{j}]"
            if not isinstance(span, list | tuple) or len(span) != 2:
                raise InvalidCase(name, span, "must be its first token and one past its last")
            start = whole_number(name, span[0], low=0)
            end = whole_number(name, span[1], low=start + 1)
            if start < last:
                raise InvalidCase(name, span, f"must not overlap the span before it, which ends at {last}")
            if end > kv_len:
                raise InvalidCase(name, span, f"must end within the {kv_len} tokens of its sequence")
            mine.append((start, end))
            last = end
        found.append(tuple(mine))
    return tuple(found)


def _entries(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise InvalidCase(name, value, "must be a list")
    return list(value)


def _draw_spans(choose: Choose, problem: Problem, batch: Batch) -> Any:
    found = []
    for kv_len in batch.kv_lens:
        spans, at = [], 0
        for _ in range(choose.whole(0, 2)):
            if at >= kv_len:
                break
            start = choose.whole(at, kv_len - 1)
            at = choose.whole(start + 1, min(kv_len, start + 70))
            spans.append((start, at))
        found.append(tuple(spans))
    return tuple(found)


def _with_spans(seen: Array, rows: Rows, value: Any, *, cut: int = 0) -> Array:
    seen = seen.copy()
    for start, end in value[rows.sequence]:
        inside = (rows.position >= start) & (rows.position < end)
        seen |= inside & (rows.key >= start) & (rows.key < end - cut)
    return seen


IMAGE_SPANS = Mask(
    name=SPANS,
    clause="F12",
    about="Tokens of one span, such as an image, see each other in both directions, within the window.",
    read=_read_spans,
    sees=_with_spans,
    admits=lambda seen, position, key, rows, value: (
        seen or any(a <= position < b and a <= key < b for a, b in value[rows.sequence])
    ),
    draw=_draw_spans,
    neutral=lambda problem, batch: ((),) * batch.num_seqs,
    mistakes={
        "its spans ignored": lambda seen, rows, value: seen,
        "spans without their last token": lambda seen, rows, value: _with_spans(seen, rows, value, cut=1),
        "the spans of sequence 0": lambda seen, rows, value: _with_spans(
            seen, rows, (value[0],) * len(value)
        ),
    },
    widens=True,
    several_rows=True,
    rows_in_keys=True,
    fields={"causal": True},
)


def _read_tree(value: Any, problem: Problem, batch: Batch) -> tuple[tuple[int, ...], ...]:
    found = []
    lengths = zip(per_sequence(TREE, value, batch), batch.query_lens, batch.kv_lens, strict=True)
    for i, (parents, q_len, kv_len) in enumerate(lengths):
        entries = _entries(f"{TREE}[{i}]", parents)
        if len(entries) != q_len:
            raise InvalidCase(f"{TREE}[{i}]", parents, f"must have a parent for each of {q_len} query tokens")
        if q_len > kv_len:
            raise InvalidCase(f"kv_lens[{i}]", kv_len, f"must hold the {q_len} drafts of the tree")
        # a parent stands before its child, so that no draft descends from itself
        found.append(tuple(_parent(f"{TREE}[{i}][{j}]", parent, j) for j, parent in enumerate(entries)))
    return tuple(found)


def _parent(name: str, value: Any, child: int) -> int:
    parent = whole_number(name, value, low=NONE)
    if parent >= child:
        raise InvalidCase(name, parent, f"must be {NONE} or a draft before draft {child}")
    return parent


def _line(parents: Sequence[int], draft: int) -> set[int]:
    """The drafts from which ``draft`` descends, and itself."""
    line = set()
    while draft != NONE:
        line.add(draft)
        draft = parents[draft]
    return line


def _of_tree(seen: Array, rows: Rows, parents: Sequence[int], *, own: bool = True) -> Array:
    first = rows.kv_len - rows.q_len
    seen = seen.copy()
    for draft in range(rows.q_len):
        line = _line(parents, draft) - (set() if own else {draft})
        seen[draft, first:] &= np.isin(np.arange(rows.q_len), list(line))
    return seen


DRAFT_TREE = Mask(
    name=TREE,
    clause="F13",
    about="A draft sees what came before all drafts, the drafts it descends from, and itself.",
    read=_read_tree,
    sees=lambda seen, rows, value: _of_tree(seen, rows, value[rows.sequence]),
    admits=lambda seen, position, key, rows, value: (
        seen
        and (
            key < rows.kv_len - rows.q_len
            or key - rows.kv_len + rows.q_len
            in _line(value[rows.sequence], position - rows.kv_len + rows.q_len)
        )
    ),
    draw=lambda choose, problem, batch: tuple(
        tuple(choose.whole(NONE, j - 1) for j in range(q_len)) for q_len in batch.query_lens
    ),
    neutral=lambda problem, batch: tuple(tuple(range(NONE, q_len - 1)) for q_len in batch.query_lens),
    mistakes={
        "a chain of drafts in place of their tree": lambda seen, rows, value: seen,
        "drafts that do not see themselves": lambda seen, rows, value: _of_tree(
            seen, rows, value[rows.sequence], own=False
        ),
        "drafts that see no other draft": lambda seen, rows, value: _of_tree(
            seen, rows, (NONE,) * rows.q_len
        ),
    },
    several_rows=True,
    rows_in_keys=True,
    fields={"causal": True},
)


def _read_list(name: str, entries: Any, count: int, what: str) -> tuple[int, ...]:
    found = []
    for j, entry in enumerate(_entries(name, entries)):
        number = whole_number(f"{name}[{j}]", entry, low=NONE)
        if number >= count:
            raise InvalidCase(f"{name}[{j}]", number, f"must be {NONE} or one of the {count} {what}")
        if number != NONE and number in found:
            raise InvalidCase(f"{name}[{j}]", number, "must not be named twice")
        found.append(number)
    return tuple(found)


def _draw_list(choose: Choose, count: int) -> tuple[int, ...]:
    """Some of ``count`` things in any order, with entries among them that name nothing."""
    if not count:
        return (NONE,) * choose.whole(0, 2)
    step, start = choose.among((1, 2, 3, 5, 7)), choose.whole(0, count - 1)
    kept = choose.whole(0, min(count, 40))
    # a walk around a circle visits each once before it meets itself
    walk = list(dict.fromkeys((start + i * step) % count for i in range(kept)))
    hole = choose.whole(0, len(walk))
    return (*walk[:hole], *(NONE,) * choose.whole(0, 2), *walk[hole:])


def _list_mask(name: str, clause: str, what: str, about: str, unit: Any, count: Any) -> Mask:
    """A mask of lists of tokens or pages; ``unit`` gives the number of keys of each, ``count`` how many."""

    def listed(seen: Array, rows: Rows, entries: Sequence[int]) -> Array:
        kept: Array = seen & np.isin(rows.key // unit(rows.page_size), [e for e in entries if e != NONE])
        return kept

    def read(value: Any, problem: Problem, batch: Batch) -> Any:
        entries = enumerate(zip(per_sequence(name, value, batch), batch.kv_lens, strict=True))
        return tuple(
            _read_list(f"{name}[{i}]", mine, count(kv_len, problem.page_size), what)
            for i, (mine, kv_len) in entries
        )

    return Mask(
        name=name,
        clause=clause,
        about=about,
        read=read,
        sees=lambda seen, rows, value: listed(seen, rows, value[rows.sequence]),
        admits=lambda seen, position, key, rows, value: (
            seen and key // unit(rows.page_size) in set(value[rows.sequence])
        ),
        draw=lambda choose, problem, batch: tuple(
            _draw_list(choose, count(kv_len, problem.page_size)) for kv_len in batch.kv_lens
        ),
        neutral=lambda problem, batch: tuple(
            tuple(range(count(kv_len, problem.page_size))) for kv_len in batch.kv_lens
        ),
        mistakes={
            f"its list of {what} ignored": lambda seen, rows, value: seen,
            f"the last entry of its list of {what} missing": lambda seen, rows, value: listed(
                seen, rows, value[rows.sequence][:-1]
            ),
            f"the first {what} in place of those listed": lambda seen, rows, value: listed(
                seen, rows, range(len([e for e in value[rows.sequence] if e != NONE]))
            ),
            f"the list of {what} of sequence 0": lambda seen, rows, value: listed(seen, rows, value[0]),
            f"its list of {what} cut at the first -1": lambda seen, rows, value: listed(
                seen, rows, [*value[rows.sequence], NONE][: [*value[rows.sequence], NONE].index(NONE)]
            ),
        },
    )


TOKEN_LISTS = _list_mask(
    TOKENS,
    "F14",
    "tokens",
    "A row sees the tokens that a list names, in any order, -1 for none, and no other.",
    lambda page_size: 1,
    lambda kv_len, page_size: kv_len,
)
PAGE_LISTS = _list_mask(
    PAGES,
    "F15",
    "pages",
    "A row sees the logical pages that a list names, in any order, -1 for none, and no other.",
    lambda page_size: page_size,
    pages_needed,
)

ROWS: tuple[Mask, ...] = (IMAGE_SPANS, DRAFT_TREE, TOKEN_LISTS, PAGE_LISTS)
