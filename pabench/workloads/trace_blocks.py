# SPDX-License-Identifier: Apache-2.0
"""Which prompts of a trace begin alike: the tokens that a block id stands for, and runs of tokens by id."""

from __future__ import annotations

import numpy as np

from pabench.problem.dtypes import Array
from pabench.problem.lengths import MAX_LENGTH
from pabench.workloads.columns import Columns
from pabench.workloads.fields import TraceError
from pabench.workloads.formats import TraceFormat
from pabench.workloads.structure import Segments

USUAL_BLOCKS = (16, 32, 64, 128, 256, 512, 1024)


def block_tokens_of(found: Columns, form: TraceFormat, file_block: int, asked: int | None) -> int:
    """Return the tokens of a block, 0 where there is no id.

    A prompt has an id for each full block, and one for the rest in all rows or in none.

    Args:
        found: rows.
        form: their format.
        file_block: as the file says, 0 where it does not.
        asked: as an option says, None for none.

    Raises:
        TraceError: the numbers of ids say something else.
    """
    if not found.ids.size:
        if asked is not None:
            raise TraceError(f"--block-tokens {asked}: it has no block ids")
        return 0
    size = asked or file_block or form.block_tokens
    told = found.counts > 0
    prompt, counts, number = found.prompt[told], found.counts[told], found.number[told]
    if file_block and asked not in (None, file_block):
        raise TraceError(f"--block-tokens {asked}: the file says that a block has {file_block}")
    up, down = -(-prompt // size) == counts, prompt // size == counts
    if up.all() or down.all():
        return size
    at = int(np.argmin(up if up.sum() >= down.sum() else down))
    # n ids: more than n - 1 blocks of tokens, fewer than n + 1
    low, high = int((prompt // (counts + 1)).max()) + 1, int(_below(prompt, counts - 1).min())
    fits = [usual for usual in USUAL_BLOCKS if low <= usual <= high]
    if low > high:
        hint = "no size fits all rows"
    elif fits:
        hint = f"{' or '.join(map(str, fits))} would fit all rows (--block-tokens)"
    else:
        hint = f"from {low} to {high} would fit all rows (--block-tokens)"
    whose = "--block-tokens says" if asked else "the file says" if file_block else f"{form.name} has it"
    ids, tokens = f"{counts[at]} hash_ids", f"{prompt[at]} tokens"
    raise TraceError(
        f"row {number[at]}: {ids} for {tokens} are not {size} tokens a block, as {whose}; {hint}"
    )


def _below(prompt: Array, blocks: Array) -> Array:
    """The largest size of which ``blocks`` blocks are fewer tokens than the prompt."""
    return np.where(blocks > 0, (prompt - 1) // np.maximum(blocks, 1), MAX_LENGTH)


def segments_of(found: Columns, size: int) -> Segments:
    """Return runs of ``size`` tokens, the last of a prompt shorter, by block id."""
    indptr = np.concatenate(([0], np.cumsum(found.counts)))
    place = np.arange(indptr[-1]) - np.repeat(indptr[:-1], found.counts)
    left = np.repeat(found.prompt, found.counts) - place * size
    return Segments(
        ids=from_zero(found.ids),
        tokens=np.minimum(left, size),
        indptr=indptr,
        output_ids=np.full(found.prompt.size, -1, np.int64),
    )


def from_zero(ids: Array) -> Array:
    """Return ids none of which is below 0, equal where they were."""
    if int(ids.min()) >= 0:
        return ids
    return np.asarray(np.unique(ids, return_inverse=True)[1], np.int64)
