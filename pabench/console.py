# SPDX-License-Identifier: Apache-2.0
"""What pabench prints: harmless text, on streams that never end a run.

Whoever reads standard output may go away (``pabench sweep | head -1``) or its disk may fill: then printing
ends, and the run, its journal and its report do not.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO

from pabench.text import clean_text

COLOURS = {"green": "32", "red": "31", "yellow": "33", "cyan": "36"}


def say(text: str = "", *, err: bool = False, lead: str = "", colour: str = "") -> None:
    """Print ``text``, its invisible characters written out, on standard output or, with ``err``, error.

    ``lead`` stands before it, bold and in ``colour`` where that is a terminal that shows colours.
    """
    stream = sys.stderr if err else sys.stdout
    clean = clean_text(text, len(text))
    if lead:
        word = clean_text(lead, len(lead))
        clean = f"{_painted(word, colour) if shows_colour(stream) else word}  {clean}"
    print(clean, file=stream, flush=True)


def shows_colour(stream: TextIO) -> bool:
    """Whether colours may be printed: on a terminal that is not dumb, without ``NO_COLOR``."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _painted(word: str, colour: str) -> str:
    return f"\x1b[1;{COLOURS[colour]}m{word}\x1b[0m"


class Lasting(io.FileIO):
    """A descriptor whose writes do not fail: after the first that does, the rest goes to ``/dev/null``.

    Attributes:
        failure: why a write failed, if one did; a reader that went away is no failure.
    """

    failure: OSError | None = None

    def write(self, data: object, /) -> int:
        """Write what the descriptor takes, waiting where it is full and does not block."""
        while True:
            try:
                written = super().write(data)  # type: ignore[arg-type]
            except OSError as error:
                if error.errno != errno.EPIPE:
                    self.failure = error
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self.fileno())
                os.close(null)
                continue
            # None: the terminal was left in non-blocking mode by somebody else
            if written is not None:
                return written
            select.select([], [self], [])


def lasting_stream(descriptor: int, like: TextIO | None = None) -> TextIO:
    """Return a stream on ``descriptor`` that takes any text, in the encoding of ``like``, and never fails.

    The descriptor stays open when the stream is closed.
    """
    raw = Lasting(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(like, "encoding", None) or "utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )


@contextlib.contextmanager
def lasting_output() -> Iterator[Lasting]:
    """Let this process print on lasting streams; yields what stands behind standard output."""
    for descriptor in (0, 1, 2):
        # closed by the caller: the next file to be opened would be taken for it
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    before = sys.stdout, sys.stderr
    for stream in before:
        with contextlib.suppress(OSError, AttributeError):
            stream.flush()
    sys.stdout, sys.stderr = lasting_stream(1, sys.stdout), lasting_stream(2, sys.stderr)
    raw = sys.stdout.buffer.raw  # type: ignore[attr-defined]
    try:
        yield raw
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before
