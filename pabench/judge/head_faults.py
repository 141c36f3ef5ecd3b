# SPDX-License-Identifier: Apache-2.0
"""Explanations of which vectors a row took: those of another KV head, or a part of their elements."""

from __future__ import annotations

from collections.abc import Iterator

from pabench.judge.suspect import Fault, Suspect

HEAD_TILES = (8, 16, 32, 64)
"""Query heads that kernels take at once."""
DIM_TILES = (16, 32, 64, 128, 256, 512)
"""Elements of a head that kernels take at once."""


def head_faults(suspect: Suspect) -> Iterator[Fault]:
    """Yield what the row would be with another KV head, or with fewer elements of a head."""
    yield from _kv_heads(suspect)
    yield from _head_dims(suspect)


def _kv_heads(suspect: Suspect) -> Iterator[Fault]:
    """Another KV head read; that of head modulo number of heads, and that of a tile, are the usual slips."""
    problem, head = suspect.tensors.case.problem, suspect.head
    modulo = head % problem.num_kv_heads
    of_tile = {tile: head // tile * tile // problem.group_size for tile in HEAD_TILES}
    others = [other for other in range(problem.num_kv_heads) if other != suspect.kv_head]
    for other in sorted(others, key=lambda other: other != modulo):
        why = []
        if other == modulo:
            why.append(f"query head mod num_kv_heads, {head} mod {problem.num_kv_heads}")
        tiles = [str(tile) for tile, found in of_tile.items() if found == other]
        if tiles:
            why.append(f"that of the first head of its tile of {' or '.join(tiles)} query heads")
        words = f"KV head {other} read in place of {suspect.kv_head}"
        if why:
            words += f" ({'; or '.join(why)})"
        yield suspect.weighted(words, *suspect.rows(suspect.pages, suspect.start, suspect.seen, other))


def _head_dims(suspect: Suspect) -> Iterator[Fault]:
    """Elements beyond a multiple of a tile left out: of products, of values, or of both."""
    size = suspect.query.size
    for tile in DIM_TILES:
        for kept in dict.fromkeys((size // tile * tile, tile)):
            if not 0 < kept < size:
                continue
            keys, values = suspect.keys.copy(), suspect.values.copy()
            keys[:, kept:] = 0.0
            values[:, kept:] = 0.0
            words = f"the products without elements {kept} to {size - 1} of the head"
            name = f"elements left out in tiles of {tile}"
            yield suspect.weighted(words, keys, suspect.values, name=name)
            words = f"an output that is 0 in dims {kept} to {size - 1}"
            yield suspect.weighted(words, suspect.keys, values, name=f"{name} of the output")
            yield suspect.weighted(f"both {words} and such products", keys, values, name=f"{name} of both")
