# SPDX-License-Identifier: Apache-2.0
"""Token ids of the sequences of a history: few streams that share beginnings and part in what is easily lost.

A stream is a number, whose digits choose a word run by run.  The words differ from the first of them by as
little as a key may lose: bits above the 8th, the 16th or the 19th or the lowest one, the order of two tokens,
their sum, where the digits of one end and those of the next begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from pabench.errors import InvalidCase
from pabench.problem.checks import INT32_MAX
from pabench.subjects.allocators.results import Image, checked_images

RUN = 4
"""Tokens of a word where pages are small: smaller than some of them, and larger than others."""
SMALL_PAGE = 8
TOP = 2**20
"""Token ids are below."""

Turns = tuple[tuple[int, int], ...]
"""First position and stream of each stretch of a sequence, in order; the first position of all is 0."""
Word = tuple[int, ...]

_FIRST = (1, 23, 65)
_OTHERS: tuple[Word, ...] = (
    (1, 23, 65 + 2**8),
    (1, 23, 65 + 2**16),
    (1, 23, 65 + 2**19),
    (1, 23, 64),
    (12, 3, 65),  # one text when joined
    (23, 1, 65),  # the same tokens
    (2, 22, 65),  # the same sum
    (0, 23, 65),
    (TOP - 1, 23, 65),
)
NEAR = len(_OTHERS)
"""Words beside the first."""
PLACES = 3
"""The words differ at their beginning, in their middle or at their end."""
_DIGIT_BITS = 4
_RUNS = 8
"""Digits of a stream; behind so many runs all streams go on alike."""
_PLAIN = 2**32
"""Streams below are of tokens 0 and 1 alone: bit ``i`` says which in run ``i``."""


def stream_of(digits: Sequence[int], place: int) -> int:
    """Return the stream that takes word ``digits[i]``, 0 to ``NEAR``, in run ``i``, then the first."""
    chosen = sum(digit << _DIGIT_BITS * at for at, digit in enumerate(digits[:_RUNS]))
    return _PLAIN * (1 + place) + chosen


def run_of(page_size: int) -> int:
    """Return the tokens of a word: in large pages words end in the first, second and third."""
    return RUN if page_size <= SMALL_PAGE else max(RUN, page_size * 3 // 4)


@lru_cache(maxsize=64)
def words(place: int, length: int) -> tuple[Word, ...]:
    """Return the words that differ at a place, ``length`` tokens each, at least ``RUN``."""
    rest = length - len(_FIRST)
    at = (0, rest // 2, rest)[place % PLACES]
    common = tuple((51_234 + 7919 * position) % TOP for position in range(rest))
    return tuple(common[:at] + word + common[at:] for word in (_FIRST, *_OTHERS))


def tokens_of(turns: Turns, first: int, count: int, page_size: int) -> list[int]:
    """Return ``count`` token ids from position ``first`` on."""
    found: list[int] = []
    ends = [position for position, _ in turns[1:]]
    for (start, stream), end in zip(turns, [*ends, first + count], strict=True):
        low, high = max(start, first), min(end, first + count)
        if low < high:
            found += _of_stream(stream, low, high, run_of(page_size))
    return found


def cut(turns: Turns, length: int, stream: int | None = None) -> Turns:
    """Return the stretches of the first ``length`` tokens; what comes after is of ``stream``, or goes on."""
    kept = tuple(turn for turn in turns if turn[0] < length) or turns[:1]
    if stream is None:
        return kept
    return (*kept, (length, stream)) if length else ((0, stream),)


def flat(turns: Turns) -> list[int]:
    """Return the stretches behind the first as plain numbers: position, stream, position, stream, .."""
    return [number for turn in turns[1:] for number in turn]


def turns_of(stream: int, rest: Sequence[int]) -> Turns:
    """Read ``flat`` back; what is out of order or incomplete is left out."""
    found = [(0, stream)]
    for position, following in zip(rest[::2], rest[1::2], strict=False):
        if position > found[-1][0] and following >= 0:
            found.append((position, following))
    return tuple(found)


def images_of(numbers: Sequence[int]) -> tuple[Image, ...]:
    """Read images that are written as plain numbers: position, tokens, image, position, tokens, image, ..

    Raises:
        InvalidCase: they are incomplete, or not one behind the other.
    """
    if len(numbers) % 3:
        raise InvalidCase("images", list(numbers), "must be position, tokens and image, again and again")
    parts = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
    return checked_images([(first, count, f"{image:x}") for first, count, image in parts], INT32_MAX)


def flat_images(images: Sequence[Image]) -> list[int]:
    """Return images as plain numbers, which ``images_of`` reads back."""
    return [number for first, count, key in images for number in (first, count, int(key, 16))]


def cut_images(images: Sequence[Image], length: int) -> tuple[Image, ...]:
    """Return what of images lies in the first ``length`` tokens."""
    return tuple((first, min(count, length - first), key) for first, count, key in images if first < length)


def _of_stream(stream: int, low: int, high: int, run: int) -> list[int]:
    first = low // run
    found: list[int] = []
    for at in range(first, -(-high // run)):
        found += _word(stream, at, run)
    return found[low - first * run : high - first * run]


def _word(stream: int, at: int, run: int) -> Word:
    if stream < _PLAIN:
        return (stream >> at & 1,) * run
    known = words(stream // _PLAIN - 1, run)
    digit = stream % _PLAIN >> _DIGIT_BITS * at if at < _RUNS else 0
    return known[digit % 2**_DIGIT_BITS % len(known)]
