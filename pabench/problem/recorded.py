# SPDX-License-Identifier: Apache-2.0
"""The very arrays of one call, as an input family: ``recorded``.

A case of this family names a recording by its content.  Whoever has read or made one keeps it for the time
that its case is judged.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.dtypes import Array

RECORDED = "recorded"
ARRAYS = ("q", "storage", "block_table")
"""Of a recording, as ``arrays.npz`` of a case directory names them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """What one call was given.

    Attributes:
        q: ``(num_query_tokens, num_qo_heads, head_dim)``, storage dtype.
        storage: as of ``KvPool``.
        block_table: ``(num_seqs, max_pages) int32``.
        num_pages: pages of the cache.
    """

    q: Array
    storage: Array
    block_table: Array
    num_pages: int

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of the contents."""
        digest = hashlib.sha256(str(self.num_pages).encode())
        for name in ARRAYS:
            array = getattr(self, name)
            digest.update(f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


_kept: dict[str, Recording] = {}


def keep(recording: Recording) -> str:
    """Let ``recorded`` find a recording, and no other any more; return its id."""
    _kept.clear()
    _kept[recording.id] = recording
    return next(iter(_kept))


def recorded(name: str) -> Recording:
    """Return the recording with an id; raises ``InvalidCase`` when it is not the one that is kept."""
    if name not in _kept:
        rule = "the arrays of this recording are not here; they lie in arrays.npz beside its case.json"
        raise InvalidCase("inputs", name, rule)
    return _kept[name]
