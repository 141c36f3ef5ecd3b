# SPDX-License-Identifier: Apache-2.0
"""Explanations of which keys a row took: too few or many, another row's, some twice, parts of pages."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pabench.judge.suspect import Cause, Fault, Suspect, name_of
from pabench.problem.dtypes import Array
from pabench.problem.visibility import visible_range

TILES = (8, 16, 32, 64, 128, 256)
"""Keys or query rows that kernels take at once."""
SPLITS = (32, 64, 128, 256, 512, 1024)
INT16 = 2**15


def mask_faults(suspect: Suspect) -> Iterator[Fault]:
    """Yield what the row would be over other keys."""
    yield from range_faults(suspect)
    yield from _tiled_windows(suspect)
    yield from _other_rows_keys(suspect)
    yield from _short_positions(suspect)
    yield from _parts_of_pages(suspect)
    yield from _twice(suspect)


def _over(suspect: Suspect, begin: int, stop: int, words: str, name: str | None = None) -> Iterator[Fault]:
    """The row over the keys ``begin..stop-1``, unless those are its own or do not exist."""
    room = len(suspect.pages) * suspect.page_size
    if 0 <= begin < stop <= room and (begin, stop) != (suspect.start, suspect.seen):
        rows = suspect.rows(suspect.pages, begin, stop, suspect.kv_head)
        yield suspect.weighted(words, *rows, start=begin, name=name)


def range_faults(suspect: Suspect) -> Iterator[Fault]:
    """Keys missing or too many at either end."""
    for begin, stop, words in _ranges(suspect):
        yield from _over(suspect, begin, stop, words)


def no_key_causes(suspect: Suspect) -> tuple[Cause, ...]:
    """Return the ranges that leave the row no key at all: 0, and an LSE of -inf, fit each of them."""
    room = len(suspect.pages) * suspect.page_size
    return tuple(
        Cause(name=name_of(words), words=words)
        for begin, stop, words in _ranges(suspect)
        if 0 <= begin <= room and stop <= begin
    )


def _ranges(suspect: Suspect) -> list[tuple[int, int, str]]:
    """First key, one past the last, and what is wrong with them."""
    start, seen, page_size = suspect.start, suspect.seen, suspect.page_size
    full, floor = -(-seen // page_size) * page_size, seen // page_size * page_size
    first_row, count = suspect.query_index + 1, seen - start
    return [
        (start, seen - 1, f"its last key missing (bound {seen - 1} in place of {seen})"),
        (start, seen + 1, f"one key too many ({count + 1} in place of {count})"),
        (start + 1, seen, "its first key missing"),
        (start, floor, f"its last page missing ({floor - start} keys in place of {count})"),
        (start, full, f"all slots of the last page taken as keys ({full - start} in place of {count})"),
        (start, suspect.kv_len, f"no causal mask ({suspect.kv_len - start} keys in place of {count})"),
        (start, first_row, f"a causal mask aligned at the top left ({first_row} keys in place of {seen})"),
        (start - 1, seen, f"one key before its window ({count + 1} in place of {count})"),
        (0, seen, f"no window ({seen} keys in place of {count})"),
    ]


def _tiled_windows(suspect: Suspect) -> Iterator[Fault]:
    """A window that begins where a tile of keys does."""
    if suspect.tensors.case.problem.window is None:
        return
    start, seen = suspect.start, suspect.seen
    for tile in dict.fromkeys((*TILES, suspect.page_size)):
        for begin in (start // tile * tile, -(-start // tile) * tile):
            way = "down" if begin < start else "up"
            words = f"the start of its window rounded {way} to a tile of {tile} keys"
            words += f" ({begin} in place of {start})"
            yield from _over(suspect, begin, seen, words, f"window rounded {way} to {tile}")


def _other_rows_keys(suspect: Suspect) -> Iterator[Fault]:
    """The mask of another query row of the sequence: the first of its tile, or its index in fewer bits."""
    q_len = suspect.q_len
    if q_len < 2:
        return
    problem, index = suspect.tensors.case.problem, suspect.query_index
    firsts, lasts = visible_range(problem, q_len, suspect.kv_len)
    others: list[tuple[int, str, str]] = []
    first = int(suspect.tensors.qo_indptr[suspect.sequence])
    wrong = suspect.wrong[first : first + q_len, suspect.head]
    for tile in TILES:
        # what these faults leave right speaks against them where it is wrong, and the other way round
        if not wrong[::tile].any():
            others.append(
                (index // tile * tile, f"the first of its tile of {tile} rows", f"first row of {tile}")
            )
        if wrong[tile:].all() and not wrong[:tile].any():
            others.append((index % tile, f"its index modulo {tile}", f"row modulo {tile}"))
    others += [(index - 1, "the one before", "row before"), (index + 1, "the one after", "row after")]
    for other, words, name in others:
        if other == index or not 0 <= other < q_len:
            continue
        first, last = int(firsts[other]), int(lasts[other])
        place = f"query row {other}, {words}"
        yield from _over(suspect, first, last, f"the keys of {place}", f"keys of {name}")
        if first != suspect.start and last != suspect.seen:
            yield from _over(suspect, first, suspect.seen, f"the window start of {place}", f"start of {name}")
            yield from _over(suspect, suspect.start, last, f"the last key of {place}", f"end of {name}")


def _short_positions(suspect: Suspect) -> Iterator[Fault]:
    """Positions kept in 16 bits, those of keys, of the row, or both."""
    problem, position = suspect.tensors.case.problem, suspect.position
    if suspect.kv_len <= INT16:
        return
    at = np.arange(suspect.kv_len)
    short_at, short = _int16(at), int(_int16(np.asarray([position]))[0])
    for keys, row, words in (
        (short_at, short, "positions in 16 bits"),
        (short_at, position, "positions of keys in 16 bits"),
        (at, short, "positions of rows in 16 bits"),
    ):
        taken = np.ones(at.size, bool)
        if problem.causal:
            taken &= keys <= row
        if problem.window is not None:
            taken &= keys > row - problem.window
        yield from _of_tokens(suspect, at[taken], f"{words} ({int(taken.sum())} keys seen)")
    # a start that became negative is the first key
    if suspect.start >= INT16:
        yield from _over(
            suspect,
            0,
            suspect.seen,
            f"the start of its window in 16 bits ({suspect.start} is negative there)",
        )


def _int16(numbers: Array) -> Array:
    return (numbers + INT16) % (2 * INT16) - INT16


def _of_tokens(suspect: Suspect, at: Array, words: str, name: str | None = None) -> Iterator[Fault]:
    """The row over the tokens ``at``, unless there are none, or they are its own."""
    own = np.arange(suspect.start, suspect.seen)
    if at.size and not (at.size == own.size and bool((at == own).all())):
        yield suspect.weighted(words, *suspect.tokens(at), at=at, name=name)


def _parts_of_pages(suspect: Suspect) -> Iterator[Fault]:
    """The last slots of each page, or of each tile, left out."""
    at = np.arange(suspect.start, suspect.seen)
    size = suspect.page_size
    for lost in (1, 2, 4, 8, 16, 32, 64, 128):
        if lost < size and suspect.seen > size - lost:
            words = f"the last {lost} slots of each page left out"
            yield from _of_tokens(suspect, at[at % size < size - lost], words, words)


def _twice(suspect: Suspect) -> Iterator[Fault]:
    """Keys counted twice, where parts of the keys overlap."""
    start, seen = suspect.start, suspect.seen
    at = np.arange(start, seen)
    tried = set()
    for split in SPLITS:
        for low, high, words in (
            (start, min(start + split, seen), f"its first {split} keys counted twice"),
            (seen // split * split, seen, f"the keys from {seen // split * split} on counted twice"),
            (start, (seen - 1) // split * split, f"all keys before the last split of {split} counted twice"),
        ):
            if start <= low < high <= seen and (low, high) not in tried and high - low < seen - start:
                tried.add((low, high))
                name = f"counted twice by {split}"
                yield from _of_tokens(suspect, np.concatenate([at, np.arange(low, high)]), words, name)
    edges = {edge for split in SPLITS for edge in range(split, seen, split) if edge > start}
    for split in SPLITS:
        ends = np.array(sorted(edge for edge in edges if edge % split == 0), dtype=np.int64)
        if ends.size:
            words = f"the last key of each split of {split} counted twice"
            yield from _of_tokens(suspect, np.sort(np.concatenate([at, ends - 1])), words, words)
            words = f"the first key of each split of {split} counted twice"
            yield from _of_tokens(suspect, np.sort(np.concatenate([at, ends])), words, words)
