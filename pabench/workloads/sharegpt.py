"""ShareGPT's JSON list of conversations, read one conversation at a time.

The file holds texts, not token counts, and counting would take a model's tokenizer: a count here is an
estimate of one token for each four characters.  As in vLLM's benchmark, a request is the first pair of turns,
kept if both have at least 4 tokens, the prompt at most 1,024 and both together at most 2,048.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any

from pabench.workloads.row_fields import Row, RowError

CHARS_PER_TOKEN = 4
MIN_TOKENS, MAX_PROMPT, MAX_TOTAL = 4, 1024, 2048
CHUNK_CHARS = 2**16
BLANKS = re.compile(r"\s*")
MAX_ITEM_CHARS = 2**24
"""A longer conversation is none; the bound keeps a file that never closes a bracket out of memory."""


def sharegpt_rows(file: IO[str]) -> Iterator[Row]:
    """Yield the requests of a file that is open behind its first bracket.

    Raises:
        RowError: names the item, counted from 1, and the field.
    """
    for number, item in enumerate(_items(file), start=1):
        if not isinstance(item, dict):
            raise RowError(f"item {number}: must be a JSON object: {str(item)[:40]!r}")
        turns = item.get("conversations")
        if not isinstance(turns, list):
            raise RowError(f"item {number}, column 'conversations': must be a list of turns")
        if len(turns) < 2:
            continue
        prompt, output = (_tokens(turn, number) for turn in turns[:2])
        small = min(prompt, output) < MIN_TOKENS
        if not small and prompt <= MAX_PROMPT and prompt + output <= MAX_TOTAL:
            yield Row(prompt, output, 0.0)


def _tokens(turn: Any, number: int) -> int:
    text = turn.get("value") if isinstance(turn, dict) else None
    if not isinstance(text, str):
        raise RowError(f"item {number}, column 'conversations': a turn must have a text 'value'")
    return -(-len(text) // CHARS_PER_TOKEN)


def _items(file: IO[str]) -> Iterator[Any]:
    decoder, buffer, at, number, ended = json.JSONDecoder(), "", 0, 1, False
    while True:
        at = _next_at(buffer, at)
        if buffer.startswith("]", at):
            return
        try:
            item, end = decoder.raw_decode(buffer, at)
            # a number or a word may go on in the next chunk; the objects that are wanted cannot
            end = _next_at(buffer, end)
            if end == len(buffer) and not ended:
                raise ValueError("what follows is not read yet")
        except (ValueError, RecursionError) as error:
            held, broken = len(buffer) - at, isinstance(error, RecursionError)
            # each time as much again as there is: an item is tried at 1, 2, 4, ... times a chunk, so that one
            # that never ends costs twice its size, not its square
            chunk = "" if broken else file.read(max(CHUNK_CHARS, held))
            if (not chunk and ended) or broken or held > MAX_ITEM_CHARS:
                raise RowError(f"item {number}: is not whole JSON: {buffer[at : at + 40]!r}") from None
            ended, buffer, at = not chunk, buffer[at:] + chunk, 0
            continue
        yield item
        number += 1
        if buffer.startswith("]", end):
            return
        if not buffer.startswith(",", end):
            found = buffer[end : end + 40]
            raise RowError(f"item {number}: expected ',' or ']' before it, found {found!r}")
        at = end + 1


def _next_at(text: str, at: int) -> int:
    """Where the next character that is no blank stands, or the end."""
    found = BLANKS.match(text, at)
    return at if found is None else found.end()
