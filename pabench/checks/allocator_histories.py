# SPDX-License-Identifier: Apache-2.0
"""Whole histories of allocators: many sequences, long rows, large pools, and thousands of rounds."""

from __future__ import annotations

import random
from typing import Any

from pabench.judge.allocators.history import HistoryCase
from pabench.judge.allocators.operations import Operation
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.capabilities import Capabilities

MOST_THREADS = 1024
"""Threads of a block: what serves sequences by one goes round again."""
MANY_PAGES = 2**16
"""Page ids that 16 bits hold."""


def crowd(seed: int, can: Capabilities) -> HistoryCase:
    """More sequences in a call than a block has threads, one of them forked; more pages than two have."""
    count = MOST_THREADS + 36
    everybody = list(range(count))
    steps = [_alloc(sequence, sequence % 2) for sequence in everybody]
    random.Random(seed).shuffle(everybody)
    steps += [("append_batch", {"sequences": everybody, "tokens": [1] * count})] * 2
    if "fork" in can.operations:
        child, *_, parent = everybody
        steps.append(("free", {"sequences": [child]}))
        steps.append(("fork", {"parent": parent, "child": child, "stream": 0}))
    steps.append(("free", {"sequences": everybody}))
    shape = PoolShape(num_pages=3 * count, page_size=1, max_seqs=count, max_pages_per_seq=3)
    return HistoryCase(shape=shape, operations=tuple(steps))


def thousand(seed: int, can: Capabilities) -> HistoryCase:
    """Steps of up to 1,000 sequences, on pages of the sizes that are served; some share a begun page."""
    rng = random.Random(seed)
    count, page_size = rng.choice([600, 1000]), rng.choice([16, 64, 128])
    steps = [_alloc(sequence, page_size - (sequence % 9 == 8)) for sequence in range(count)]
    for parent in range(8, count - 1, 9) if "fork" in can.operations else ():
        steps[parent + 1] = ("fork", {"parent": parent, "child": parent + 1, "stream": 0})
    sequences = rng.sample(range(count), count)
    steps += [("append_batch", {"sequences": sequences, "tokens": [1] * count})] * 2
    steps.append(("free", {"sequences": sequences[: count // 2]}))
    rest = sorted(sequences[count // 2 :])
    steps.append(("append_batch", {"sequences": rest, "tokens": [page_size] * len(rest)}))
    shape = PoolShape(num_pages=2 * count + 9, page_size=page_size, max_seqs=count, max_pages_per_seq=3)
    return HistoryCase(shape=shape, operations=tuple(steps))


def long_rows(seed: int, can: Capabilities) -> HistoryCase:
    """Few sequences of so many pages that a call has more of them than small blocks have threads."""
    rng = random.Random(seed)
    count, page_size = 5, rng.choice([1, 3])
    lengths = [page_size * rng.randint(70, 100) + rng.randrange(page_size) for _ in range(count)]
    first = [rng.randint(1, length - 1) for length in lengths]
    steps = [_alloc(sequence, tokens) for sequence, tokens in enumerate(first)]
    rest = [length - tokens for length, tokens in zip(lengths, first, strict=True)]
    steps.append(("append_batch", {"sequences": list(range(count)), "tokens": rest}))
    steps.append(("free", {"sequences": rng.sample(range(count), count)}))
    shape = PoolShape(num_pages=count * 101, page_size=page_size, max_seqs=count, max_pages_per_seq=101)
    return HistoryCase(shape=shape, operations=tuple(steps))


def large_pool(seed: int, can: Capabilities) -> HistoryCase:
    """A pool of up to 100,000 pages, nearly all of them taken, so that ids need more than 16 bits."""
    rng = random.Random(seed)
    page_size, width = rng.choice([1, 2]), 12_000
    pages = rng.randint(MANY_PAGES + 5_000, 100_000)
    count = -(-pages // width)
    sizes = [min(width, pages - width * at) * page_size - rng.randrange(3) for at in range(count)]
    steps = [_alloc(sequence, tokens - 2 * page_size) for sequence, tokens in enumerate(sizes)]
    if "append_batch" in can.operations:
        batch = {"sequences": list(range(count)), "tokens": [page_size] * count}
        steps.append(("append_batch", batch))
    else:
        steps.append(("append", {"sequence": count - 1, "tokens": page_size}))
    first, last = rng.randrange(count // 2), count - 1
    steps.append(("free", {"sequences": [first, last]}))
    if "fork" in can.operations:
        steps.append(("fork", {"parent": count - 2, "child": last, "stream": 1}))
        steps.append(("append", {"sequence": last, "tokens": 1}))
        steps.append(("free", {"sequences": [last]}))
    steps += [_alloc(last, 3 * page_size), _alloc(first, (width - 1) * page_size)]
    shape = PoolShape(num_pages=pages, page_size=page_size, max_seqs=count + 1, max_pages_per_seq=width)
    return HistoryCase(shape=shape, operations=tuple(steps))


def corners(seed: int, can: Capabilities) -> HistoryCase:
    """What a drawn history meets now and then: a cached page written over, and a copy without a page."""
    rng = random.Random(seed)
    page_size, spare = rng.choice([4, 2, 16, 64, 5]), rng.randint(1, 3)
    shape = PoolShape(num_pages=2 + spare, page_size=page_size, max_seqs=3, max_pages_per_seq=2 + spare)
    steps: list[Operation] = []
    if {"commit", "lookup", "truncate"} <= can.operations:
        steps += _written_over(rng, page_size)
    if "fork" in can.operations:
        steps += _copy_without_a_page(rng, page_size, spare, batches="append_batch" in can.operations)
    return HistoryCase(shape=shape, operations=(*steps, ("drain", {})))


def _written_over(rng: random.Random, page_size: int) -> list[Operation]:
    """A sequence is offered to others, cut within its last page, written on otherwise, and offered again."""
    other, length = 2**20 - 1, 2 * page_size
    kept = rng.randrange(page_size, length)
    steps = [_alloc(0, length, 0), ("commit", {"sequence": 0, "tokens": length})]
    steps.append(("truncate", {"sequence": 0, "length": kept, "stream": other}))
    steps.append(("append", {"sequence": 0, "tokens": length - kept}))
    steps.append(("commit", {"sequence": 0, "tokens": length}))
    for turns in ([], [kept, other]):
        words = {"stream": 0, "adapter": "", "salt": ""}
        steps.append(("lookup", {"tokens": length + 1, "turns": turns, **words}))
    steps.append(("free", {"sequences": [0]}))
    return steps


def _copy_without_a_page(rng: random.Random, page_size: int, spare: int, *, batches: bool) -> list[Operation]:
    """Two sequences share a last page with room while no page is left to copy it to; then there is one."""
    writer = rng.randrange(2)
    steps = [_alloc(0, 2 * page_size - 1), ("fork", {"parent": 0, "child": 1, "stream": 3})]
    steps += [_alloc(2, spare * page_size), ("append", {"sequence": writer, "tokens": 1})]
    if batches:
        steps.append(("append_batch", {"sequences": [1, 0], "tokens": [1, 1]}))
    steps.append(("free", {"sequences": [2]}))
    steps += [("append", {"sequence": sequence, "tokens": 1}) for sequence in (writer, 1 - writer)]
    return steps


def rounds(seed: int, can: Capabilities, frees: int) -> HistoryCase:
    """The same calls until so many sequences have ended: one by one on the host, else many in a call."""
    rng = random.Random(seed)
    page_size, seqs = rng.choice([16, 1, 64]), 40
    shape = PoolShape(num_pages=3 * seqs + 7, page_size=page_size, max_seqs=seqs, max_pages_per_seq=4)
    if can.progress == "sequential":
        steps, ends = _singles(rng, can, page_size), 4
    else:
        steps, ends = _batches(rng, can, page_size, seqs), seqs
    times = -(-frees // ends)
    return HistoryCase(shape=shape, operations=(*steps, ("rounds", {"last": len(steps), "times": times})))


def _singles(rng: random.Random, can: Capabilities, page_size: int) -> list[Operation]:
    """Four sequences, that end one by one."""
    steps = [_alloc(sequence, rng.randint(1, 2 * page_size)) for sequence in range(3)]
    steps.append(("append", {"sequence": 0, "tokens": page_size}))
    if "append_batch" in can.operations:
        steps.append(("append_batch", {"sequences": [1, 2], "tokens": [1, 1]}))
    if "commit" in can.operations:
        steps.append(("commit", {"sequence": 0, "tokens": page_size}))
        steps.append(
            ("lookup", {"tokens": page_size + 1, "turns": [], "stream": 1, "adapter": "", "salt": ""})
        )
    if "fork" in can.operations:
        steps.append(("fork", {"parent": 0, "child": 3, "stream": 1}))
        steps.append(("append", {"sequence": 3, "tokens": 1}))
    else:
        steps.append(_alloc(3, 1))
    if "truncate" in can.operations:
        steps.append(("truncate", {"sequence": 0, "length": page_size, "stream": None}))
    ends = [0, 1, 2, 3]
    if "fork" in can.operations:
        rng.shuffle(ends)
    steps += [("free", {"sequences": [sequence]}) for sequence in ends]
    if "evict" in can.operations:
        steps.append(("evict", {"pages": 9}))
    return steps


def _batches(rng: random.Random, can: Capabilities, page_size: int, seqs: int) -> list[Operation]:
    """All sequences at once, begun by a few calls where they can be forked."""
    everybody = list(range(seqs))
    if "fork" in can.operations:
        steps: list[Operation] = [_alloc(0, 0)]
        steps += [("fork", {"parent": 0, "child": child, "stream": 0}) for child in everybody[1:]]
    else:
        steps = [_alloc(sequence, 0) for sequence in everybody]
    steps.append(("append_batch", {"sequences": everybody, "tokens": [page_size + 1] * seqs}))
    rng.shuffle(everybody)
    steps.append(("free", {"sequences": everybody}))
    return steps


def _alloc(sequence: int, tokens: int, stream: int = 1) -> Operation:
    words: dict[str, Any] = {"final_tokens": None, "stream": stream, "adapter": "", "salt": ""}
    return "alloc", {"sequence": sequence, "tokens": tokens, **words}
