"""JSON messages, one a line, over a socket between two processes of pabench."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any

from pabench.errors import PabenchError

CHUNK_BYTES = 2**16
Message = dict[str, Any]


class Garbled(Exception):
    """Something else than a message came through the channel."""


class Channel:
    """One end of a socket.

    Only the process that made the object speaks through it: a copy of that process (``fork``) that tries ends
    at once, so that nobody hears a message twice.

    Args:
        end: a connected stream socket, which the channel owns from now on.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._owner = os.getpid()
        self._buffer = bytearray()

    def fileno(self) -> int:
        """Return the descriptor, for ``select``."""
        return self._end.fileno()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; raises ``OSError`` when the other side is gone."""
        if os.getpid() != self._owner:
            os._exit(0)
        self._end.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def receive(self) -> Message | None:
        """Wait for the next message; None when the other side is gone."""
        while (message := self.next()) is None:
            if not self.fill():
                return None
        return message

    def next(self) -> Message | None:
        """Return a message that has arrived whole, or None; raises ``Garbled``."""
        end = self._buffer.find(b"\n")
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise Garbled(ascii(line[:60])) from None
        if not isinstance(message, dict):
            raise Garbled(ascii(line[:60]))
        return message

    def fill(self) -> bool:
        """Read what is there, waiting for a first byte; False when the other side is gone."""
        try:
            data = self._end.recv(CHUNK_BYTES)
        except ConnectionError:
            return False
        self._buffer += data
        return bool(data)

    def close(self) -> None:
        """Close this end."""
        self._end.close()


def refusal(error: PabenchError) -> Message:
    """Return ``error`` as a message; ``raise_refusal`` raises it on the other side."""
    return {"event": "refused", "text": str(error), "hint": error.hint, "exit_code": error.exit_code}


def raise_refusal(message: Message) -> None:
    """Raise the error that a message of ``refusal`` holds; does nothing for other messages."""
    if message.get("event") != "refused":
        return
    error = PabenchError(str(message["text"]), hint=message["hint"])
    error.exit_code = int(message["exit_code"])
    raise error
