# SPDX-License-Identifier: Apache-2.0
"""Makes values of what a subject's process says: everything is looked at, nothing is believed.

Arrays are made here of bytes that have the length that their type and shape ask for.  What is no array
becomes a stub whose type has the name of the subject's, so that a check says of it what it says of the
thing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any

import numpy as np

import pabench.errors
from pabench.checks.remote.errors import SubjectRaised
from pabench.device.checked import KernelFindings
from pabench.device.findings import Finding, Party, Place
from pabench.errors import InvalidCase, OutOfPages, PabenchError
from pabench.problem.dtypes import Array
from pabench.subjects.allocators.results import Granted, Hit, MemorySplit, Prompt
from pabench.subjects.backends.base import AttentionOutput

DTYPE = re.compile(r"[<>|=][biufc]\d{1,2}")
NAME = re.compile(r"\w[\w.]{0,99}")
MAX_AXES = 32
ATOMS = frozenset({bool, int, float, str, type(None)})
"""What JSON holds that is told as it is; JSON makes of it these very types."""
KNOWN: dict[str, Any] = {
    name: found
    for name, found in vars(pabench.errors).items()
    if isinstance(found, type) and issubclass(found, PabenchError)
} | {KernelFindings.__name__: KernelFindings}
"""Errors that arrive as what they are."""


class Nonsense(Exception):
    """The subject's process said what no code of ours says."""


class Foreign:
    """Base of what stands for a thing that stays in the subject's process."""


class Answers:
    """Reads one answer.

    Args:
        parts: bytes of its arrays.
        found: from segment and offset to the array of the judge's that lies there, and the byte in it; or
            None.
    """

    def __init__(self, parts: Sequence[bytes], found: Callable[[int, int], tuple[Array, int] | None]) -> None:
        self._parts = parts
        self._found = found

    def read(self, told: Any) -> Any:
        """Return the value that ``told`` describes; raises ``Nonsense``."""
        if type(told) in ATOMS:
            return told
        if not isinstance(told, dict):
            raise Nonsense(f"a value of type {type(told).__name__}")
        if "other" in told:
            return _stub(told)
        if len(told) != 1:
            raise Nonsense(f"a value of {len(told)} kinds")
        ((kind, inside),) = told.items()
        if kind == "plain":
            return inside
        if kind == "array":
            return self._array(inside)
        if kind == "scalar":
            return self._array(inside)[()]
        if not isinstance(inside, list):
            raise Nonsense(f"a {kind!r} that is no list")
        values = [one if type(one) in ATOMS else self.read(one) for one in inside]
        if kind in ("list", "tuple"):
            return values if kind == "list" else tuple(values)
        return _made(kind, values)

    def _array(self, told: Any) -> Any:
        shape = told.get("shape") if isinstance(told, dict) else None
        if (
            not isinstance(shape, list)
            or len(shape) > MAX_AXES
            or not all(type(size) is int and 0 <= size < 2**48 for size in shape)
        ):
            raise Nonsense("an array without a shape")
        name, part = told.get("dtype"), told.get("part")
        if not isinstance(name, str):
            raise Nonsense("an array without a dtype")
        dtype = _dtype(name)
        if dtype is None:
            return _unsent(np.dtype(object), shape)
        if part is None:
            return _unsent(dtype, shape)
        if type(part) is not int or not 0 <= part < len(self._parts):
            raise Nonsense("an array without its bytes")
        data = self._parts[part]
        if len(data) != math.prod(shape) * dtype.itemsize:
            raise Nonsense(f"{len(data)} bytes of an array {dtype}{shape}")
        array = np.frombuffer(data, dtype).reshape(shape)
        return self._ours(told.get("place"), array)

    def _ours(self, place: Any, array: Array) -> Array:
        """``array``, or where the subject returned memory of the judge's that memory itself."""
        if isinstance(place, list) and [type(one) for one in place] == [int, int]:
            found = self._found(*place)
            if found is not None:
                ours, offset = found
                seen = ours.reshape(-1).view(np.uint8)[offset : offset + array.nbytes]
                if np.shares_memory(seen, ours) and seen.tobytes() == array.tobytes():
                    return seen.view(array.dtype).reshape(array.shape)
        # the bytes of a message cannot be written
        return array.copy()


@lru_cache(maxsize=64)
def _dtype(name: str) -> np.dtype[Any] | None:
    """The type of numbers of this name, None for what is no such name; raises ``Nonsense``."""
    if not DTYPE.fullmatch(name):
        return None
    try:
        return np.dtype(name)
    except TypeError:
        raise Nonsense(f"an array of dtype {name}") from None


def _unsent(dtype: np.dtype[Any], shape: list[int]) -> Array:
    """An array of whose elements nothing is known but their type: of one element, and any shape."""
    return np.broadcast_to(np.zeros((), dtype), shape)


def _stub(told: dict[str, Any]) -> Any:
    name = told["other"]
    if not isinstance(name, str) or not NAME.fullmatch(name):
        name = "object"
    known: dict[str, Any] = {field: str(told[field]) for field in ("dtype", "shape") if field in told}
    return type(name, (Foreign,), known)()


def _made(kind: str, values: list[Any]) -> Any:
    """One of the results of the protocols."""
    kinds: dict[str, tuple[Any, tuple[str, ...]]] = {
        "output": (AttentionOutput, ("out", "lse")),
        "granted": (Granted, ("new_slots", "copies", "refused")),
        "hit": (Hit, ("prompt", "pages", "part_of", "part")),
        "prompt": (Prompt, ("tokens", "adapter", "salt", "images")),
        "split": (MemorySplit, ("tokens", "reserved", "internal", "external")),
    }
    if kind not in kinds:
        raise Nonsense(f"a value of kind {kind!r}")
    made, names = kinds[kind]
    if len(values) != len(names):
        raise Nonsense(f"a {kind} of {len(values)} fields")
    try:
        return made(**dict(zip(names, values, strict=True)))
    except (PabenchError, TypeError, ValueError) as error:
        raise Nonsense(f"a {kind} that cannot be: {error}") from None


def error_of(told: Any) -> Exception:
    """Return the error that a subject's process has told of; raises ``Nonsense``."""
    if not isinstance(told, dict) or not all(isinstance(told.get(key), str) for key in ("type", "text")):
        raise Nonsense("an error without type and text")
    classes = told.get("classes")
    known = [KNOWN[name] for name in classes if name in KNOWN] if isinstance(classes, list) else []
    if told.get("ours") and known:
        return _ours(known[0], told)
    place = f" ({told['place']})" if told.get("place") else ""
    text = f"{told['type']}: {told['text']}" if told["text"] else told["type"]
    return SubjectRaised(f"{text}{place}", str(told.get("trace", "")))


def _ours(kind: type[Exception], told: dict[str, Any]) -> Exception:
    """An error of ours with the text and the fields that it had; none of its rules is asked again."""
    error: Any = kind.__new__(kind, told["text"])
    hint = told.get("hint")
    error.hint = hint if isinstance(hint, str) else None
    if kind is OutOfPages:
        pages = told.get("pages")
        if not isinstance(pages, list) or [type(count) for count in pages] != [int, int]:
            raise Nonsense("a lack of pages without numbers")
        error.needed, error.available = pages
    elif kind is InvalidCase:
        error.field, error.value, error.rule = str(told.get("field")), None, str(told.get("rule"))
    elif kind is KernelFindings:
        found = told.get("findings")
        if not isinstance(found, list) or not found:
            raise Nonsense("malformed findings")
        error.findings = tuple(_finding(one) for one in found)
    return error  # type: ignore[no-any-return]


def _finding(told: Any) -> Finding:
    try:
        known = {field.name: told[field.name] for field in fields(Finding)}
        known["at"] = _party(known["at"])
        known["other"] = None if known["other"] is None else _party(known["other"])
        known["waiting"] = tuple(_party(one) for one in known["waiting"])
        for name, kind in (("offset", int), ("nbytes", int), ("count", int), ("check", str), ("text", str)):
            if type(known[name]) is not kind:
                raise Nonsense(f"a finding whose {name} is {known[name]!r}")
        return Finding(**known)
    except (KeyError, TypeError, IndexError) as error:
        raise Nonsense(f"a finding that cannot be: {error}") from None


def _party(told: Any) -> Party:
    place = told["place"]
    return Party(
        action=str(told["action"]),
        block=_index(told["block"]),
        thread=_index(told["thread"]),
        place=Place(file=str(place["file"]), line=int(place["line"]), function=str(place["function"])),
    )


def _index(told: Any) -> tuple[int, int, int]:
    x, y, z = (int(number) for number in told)
    return (x, y, z)
