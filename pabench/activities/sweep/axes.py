# SPDX-License-Identifier: Apache-2.0
"""Lists of whole numbers and of heads, as a user writes them on the command line or in a file.

``8,16,32`` are three items; ``1:64:x2`` is the range 1, 2, 4, ... 64 and ``16:64:16`` is 16, 32, 48, 64 (both
ends included when a step meets them).  Every error names the bad item and its position.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pabench.errors import UnknownName, UsageError
from pabench.problem.checks import INT32_MAX

MAX_ITEMS = 4096
"""Most items that one list may hold; a longer range is almost certainly a typo."""


def parse_numbers(option: str, text: object, *, high: int = INT32_MAX) -> tuple[int, ...]:
    """Return the whole numbers from 1 to ``high`` that ``text`` lists.

    Args:
        option: how the list is called in errors, for instance ``--page-sizes``.
        text: ``8,16,32``, ranges ``first:last:step`` and ``first:last:xfactor``, or the numbers themselves as
            a file gives them.
        high: largest number allowed.

    Raises:
        UsageError: an item is empty, not a number, out of range, or listed twice; nothing is listed.
    """
    if isinstance(text, str):
        shown = text
    elif isinstance(text, Iterable):
        shown = ",".join(str(item) for item in text)
    else:
        shown = str(text)
    whole = shown if len(shown) <= 80 else shown[:77] + "..."
    if not shown.strip():
        raise UsageError(f"{option}: the list is empty, must name at least one whole number such as 16")
    numbers: list[int] = []
    for position, item in enumerate(shown.split(","), start=1):
        where = f"{option} {whole!r}: item {position}"
        for number in _expand(where, item.strip(), high):
            if number in numbers:
                raise UsageError(f"{where} gives {number} a second time, each number may stand once")
            numbers.append(number)
        if len(numbers) > MAX_ITEMS:
            raise UsageError(f"{where} makes {len(numbers)} items, must be at most {MAX_ITEMS}")
    return tuple(numbers)


def _expand(where: str, item: str, high: int) -> Sequence[int]:
    if ":" not in item:
        return (_number(where, item, high),)
    parts = item.split(":")
    if len(parts) != 3:
        raise UsageError(f"{where} is {item!r}, a range must read first:last:step or first:last:xfactor")
    first, last = _number(where, parts[0], high), _number(where, parts[1], high)
    if last < first:
        raise UsageError(f"{where} is {item!r}, its last number {last} is below its first {first}")
    if not parts[2].startswith("x"):
        return range(first, last + 1, _number(where, parts[2], high))[: MAX_ITEMS + 1]
    factor = _number(where, parts[2][1:], high)
    if factor < 2:
        raise UsageError(f"{where} is {item!r}, a factor must be at least x2")
    numbers = []
    while first <= last:
        numbers.append(first)
        first *= factor
    return numbers


def _number(where: str, text: str, high: int) -> int:
    if not text:
        raise UsageError(f"{where} is empty, must be a whole number from 1 to {high}")
    # the length is looked at first: Python refuses to convert thousands of digits
    if not text.isascii() or not text.isdigit() or len(text) > 12 or not 1 <= int(text) <= high:
        shown = text if len(text) <= 40 else text[:37] + "..."
        raise UsageError(f"{where} is {shown!r}, must be a whole number from 1 to {high}")
    return int(text)


def parse_heads(option: str, text: str) -> tuple[int, int]:
    """Return query heads and KV heads of ``32:8``; ``8`` alone means as many of both.

    Raises:
        UsageError: not of that form, or the query heads are no multiple of the KV heads.
    """
    where = f"{option} {text!r}"
    parts = text.strip().split(":")
    if len(parts) > 2:
        raise UsageError(f"{where}: must read QUERY_HEADS:KV_HEADS, such as 32:8")
    query = _number(f"{where}: query heads", parts[0], 2**16)
    kv = _number(f"{where}: KV heads", parts[-1], 2**16)
    if query % kv:
        raise UsageError(f"{where}: {query} query heads must be a multiple of {kv} KV heads")
    return query, kv


def parse_names(option: str, kind: str, items: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Return ``items`` stripped, after checking each against ``known``.

    Args:
        option: how the list is called in errors.
        kind: what one item is, for instance ``backend``.
        items: the names as written.
        known: the names there are.

    Raises:
        UsageError: an item is empty or listed twice, or nothing is listed.
        UnknownName: an item is not in ``known``; the nearest name is offered.
    """
    stripped, names = [item.strip() for item in items], list(known)
    if not any(stripped):
        raise UsageError(f"{option}: the list is empty, must name at least one of {', '.join(names)}")
    for position, item in enumerate(stripped, start=1):
        where = f"{option} {','.join(stripped)!r}: item {position}"
        if not item:
            raise UsageError(f"{where} is empty")
        if item not in names:
            raise UnknownName(kind, item, names)
        if item in stripped[: position - 1]:
            raise UsageError(f"{where} repeats {item!r}")
    return tuple(stripped)
