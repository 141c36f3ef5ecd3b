# SPDX-License-Identifier: Apache-2.0
"""What a subject raised, as plain values: the judge's side makes an exception of it again."""

from __future__ import annotations

import os
import site
import sysconfig
import traceback
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import pabench
from pabench.device.checked import KernelFindings
from pabench.errors import InvalidCase, OutOfPages, PabenchError

MAX_MESSAGE = 500
MAX_TRACE = 8_000
HERE = str(Path(__file__).parent)
OURS = str(Path(pabench.__file__).parent) + os.sep


def told(error: BaseException) -> dict[str, Any]:
    """Return type, message, place and traceback of ``error``, all of bounded size."""
    message = _message(error)
    found: dict[str, Any] = {
        "type": type(error).__name__[:100],
        "classes": [kind.__name__ for kind in type(error).__mro__],
    }
    if isinstance(error, PabenchError):
        # an answer as others are, such as that no pages are left: where it was raised is asked by nobody
        hint = getattr(error, "hint", None)
        found |= {"ours": True, "text": message, "hint": None if hint is None else str(hint)}
        if isinstance(error, OutOfPages):
            found["pages"] = [int(error.needed), int(error.available)]
        elif isinstance(error, InvalidCase):
            found["field"], found["rule"] = str(error.field), str(error.rule)
        elif isinstance(error, KernelFindings):
            found["findings"] = [finding.to_json() for finding in error.findings]
        return found
    short = " ".join(message.split())
    found["text"] = short if len(short) <= MAX_MESSAGE else f"{short[:MAX_MESSAGE]}..."
    return found | {"place": place_of(error.__traceback__), "trace": _trace(error)}


def place_of(trace: TracebackType | None) -> str:
    """Return the innermost frame of the subject's own code as ``FILE:LINE in NAME``, or nothing.

    Its own code is what belongs neither to Python, nor to an installed package, nor to us; where all frames
    do, as those of a backend of ours, it is the innermost one outside of this room.
    """
    frames = [frame for frame in traceback.extract_tb(trace) if not frame.filename.startswith(HERE)]
    own = [frame for frame in frames if not frame.filename.startswith((OURS, "<", *_libraries()))]
    last = (own or frames)[-1:]
    return "".join(f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in last)


@cache
def _libraries() -> tuple[str, ...]:
    standard = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(path for path in (*standard, *site.getsitepackages()) if path)


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as second:
        return f"(its text cannot be had: {type(second).__name__})"
    # a lone surrogate is no text that can be written anywhere
    return text.encode("utf-8", "backslashreplace").decode()


def _trace(error: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as second:
        return f"(its traceback cannot be had: {type(second).__name__})"
    return text.encode("utf-8", "backslashreplace").decode()[-MAX_TRACE:]
