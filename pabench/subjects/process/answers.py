# SPDX-License-Identifier: Apache-2.0
"""What a subject returned, described in JSON and raw bytes: the judge makes of it what it finds right.

Nothing is judged here, and nothing refused: what is no array is told by the name of its type.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from pabench.subjects.allocators.results import Granted, Hit, MemorySplit, Prompt
from pabench.subjects.backends.base import AttentionOutput
from pabench.subjects.process.memory import Inputs

PLAIN_KINDS = "biufc"
"""Kinds of numpy whose bytes are sent; of others dtype and shape say enough."""
MAX_ARRAY_BYTES = 2**32
MAX_ENTRIES = 2**20
MAX_TEXT = 10_000
MAX_DEPTH = 6


class Plain(dict[str, Any]):
    """JSON of our own, which is told as it is."""


class Answer:
    """A described value.

    Attributes:
        value: JSON.
        parts: the bytes of its arrays.
    """

    def __init__(self, value: Any, inputs: Inputs) -> None:
        self.parts: list[memoryview] = []
        self._inputs = inputs
        self.value = self._of(value, 0)

    def _of(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if value is None or kind in (bool, float):
            return value
        if kind is int and abs(value) < 2**64:
            return value
        if kind is str:
            return value[:MAX_TEXT]
        if kind is Plain:
            return {"plain": value}
        if issubclass(kind, np.generic):
            return {"scalar": self._array(np.asarray(value))}
        if issubclass(kind, np.ma.MaskedArray):
            # what is masked has no value, and the bytes below it are nobody's answer
            return self._other(value)
        if issubclass(kind, np.ndarray):
            return {"array": self._array(np.ndarray.view(value, np.ndarray))}
        if depth < MAX_DEPTH:
            for known, name, fields in KNOWN:
                if issubclass(kind, known):
                    return {name: [self._of(getattr(value, field), depth + 1) for field in fields]}
            if kind in (list, tuple):
                entries = itertools.islice(value, MAX_ENTRIES)
                return {kind.__name__: [self._of(one, depth + 1) for one in entries]}
        return self._other(value)

    def _array(self, array: Any) -> dict[str, Any]:
        told: dict[str, Any] = {"dtype": array.dtype.str, "shape": list(array.shape)}
        if array.dtype.kind not in PLAIN_KINDS or array.dtype.fields is not None:
            return told | {"dtype": str(array.dtype)}
        if array.nbytes > MAX_ARRAY_BYTES:
            return told
        if place := self._inputs.place_of(array):
            told["place"] = list(place)
        told["part"] = len(self.parts)
        # bytes are laid in rows whatever they were; a copy, which a thread of the subject cannot change
        self.parts.append(memoryview(array.tobytes()))
        return told

    def _other(self, value: Any) -> dict[str, Any]:
        told: dict[str, Any] = {"other": str(type(value).__name__)[:100]}
        if hasattr(value, "dtype") and hasattr(value, "shape"):
            told |= {"dtype": str(value.dtype)[:100], "shape": str(tuple(value.shape))[:100]}
        return told


KNOWN: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (AttentionOutput, "output", ("out", "lse")),
    (Granted, "granted", ("slots", "copies", "refused")),
    (Hit, "hit", ("prompt", "pages", "part_of", "part")),
    (Prompt, "prompt", ("tokens", "adapter", "salt", "images")),
    (MemorySplit, "split", ("tokens", "reserved", "internal", "external")),
)
"""Results of the protocols: type, name in a description, fields that are told."""
