# SPDX-License-Identifier: Apache-2.0
"""Says where the exception of somebody else's code comes from: one line for people, and the traceback."""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path

from pabench.errors import PabenchError

MAX_TEXT = 600
"""Characters of an exception's message that are kept."""
MAX_TRACEBACK = 8000
"""Characters of a formatted traceback that are kept: its end, where the reason is."""

_PACKAGE = tuple({str(folder) for folder in (Path(__file__).parent, Path(__file__).resolve().parent)})
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def message_of(error: BaseException) -> str:
    """Return type and message on one line, at most ``MAX_TEXT`` characters; a message may be hostile."""
    kind = type(error).__name__
    try:
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        words = " ".join(str(said).split())
    except BaseException as worse:
        if isinstance(worse, KeyboardInterrupt):
            raise
        words = f"(its message raises {type(worse).__name__})"
    text = f"{kind}: {words}" if words else kind
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."


def place_of(error: BaseException) -> str | None:
    """Return where the code under test raised, ``file.py:12 in name``, or None when there is no frame.

    That is the innermost frame in its own files: outside pabench, then outside Python and what is installed
    beside it.  Where all frames are pabench's, the last one; None for an error that pabench raises on
    purpose, whose message says all.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    foreign = [frame for frame in frames if not _within(frame[0].co_filename, _PACKAGE)]
    own = [frame for frame in foreign if not _within(frame[0].co_filename, _INSTALLED)]
    if not frames or (not foreign and isinstance(error, PabenchError)):
        return None
    code, line = (own or foreign or frames)[-1]
    where = f"{Path(code.co_filename).name}:{line}"
    return where if code.co_name == "<module>" else f"{where} in {code.co_name}"


def described(error: BaseException) -> str:
    """Return type, message and place on one line: ``TypeError: no len() (win.py:12 in decode)``."""
    text, place = message_of(error), place_of(error)
    return text if place is None else f"{text} ({place})"


def formatted(error: BaseException) -> str:
    """Return the traceback as Python prints it, at most ``MAX_TRACEBACK`` characters, its end.

    What cannot be written as UTF-8 is escaped; the message may have many lines.
    """
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException as worse:
        # the code under test may make its exception impossible to print
        if isinstance(worse, KeyboardInterrupt):
            raise
        text = "".join([*traceback.format_tb(error.__traceback__), message_of(error), "\n"])
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= MAX_TRACEBACK else f"...{text[-MAX_TRACEBACK:]}"


def _within(file: str, folders: Sequence[str]) -> bool:
    # code that is made at run time, such as "<string>", has no folder and counts as its author's own
    return any(file.startswith(f"{folder}/") for folder in folders) or file.startswith("<frozen ")
