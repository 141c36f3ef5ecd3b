# SPDX-License-Identifier: Apache-2.0
"""Messages over a socket between two processes of pabench: a line of JSON each, and bytes behind it.

A message that carries bytes says in its field ``parts`` how many each part has; on arrival that field holds
the parts themselves.  Nothing is ever unpickled on the supervisor's side.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from pabench.errors import PabenchError

CHUNK_BYTES = 2**16
MAX_LINE_BYTES = 2**26
MAX_PARTS_BYTES = 2**33
"""What one message may hold; a process that says more is taken for one that says nothing right."""
MAX_DESCRIPTORS = 16
Message = dict[str, Any]
encode = json.JSONEncoder(separators=(",", ":")).encode
"""Made once: ``json.dumps`` makes another one each time it is not asked for its own form."""


class Garbled(Exception):
    """Something else than a message came through the channel."""


class Channel:
    """One end of a socket.

    Only the process that made the object speaks through it: a copy of that process (``fork``) that tries ends
    at once, so that nobody hears a message twice.

    Args:
        end: a connected stream socket, which the channel owns from now on.
        takes_descriptors: whether descriptors that come along are kept; a worker takes those of its
            supervisor, which itself takes none.

    Attributes:
        descriptors: those that have come along, in their order; whoever uses one takes it out.
    """

    def __init__(self, end: socket.socket, *, takes_descriptors: bool = False) -> None:
        self.descriptors: list[int] = []
        self._end = end
        self._takes_descriptors = takes_descriptors
        self._owner = os.getpid()
        self._buffer = bytearray()
        self._searched = 0
        self._begun: Message | None = None
        self._sizes: list[int] = []

    def fileno(self) -> int:
        """Return the descriptor, for ``select``."""
        return self._end.fileno()

    def send(
        self,
        message: Mapping[str, Any],
        parts: Sequence[bytes | memoryview] = (),
        descriptors: Sequence[int] = (),
    ) -> None:
        """Send a message; raises ``OSError`` when the other side is gone.

        Args:
            message: JSON values, without a field ``parts``.
            parts: bytes that arrive in that field.
            descriptors: up to ``MAX_DESCRIPTORS`` open files to hand over.
        """
        if os.getpid() != self._owner:
            os._exit(0)
        if parts:
            message = {**message, "parts": [len(part) for part in parts]}
        line = encode(message).encode() + b"\n"
        if descriptors:
            line = line[socket.send_fds(self._end, [line], list(descriptors)) :]
        if sum(map(len, parts)) <= CHUNK_BYTES:
            # at once: who listens is woken once
            self._end.sendall(b"".join((line, *parts)))
            return
        for data in (line, *parts):
            self._end.sendall(data)

    def receive(self) -> Message | None:
        """Wait for the next message; None when the other side is gone."""
        while (message := self.next()) is None:
            if not self.fill():
                return None
        return message

    def next(self) -> Message | None:
        """Return a message that has arrived whole, or None; raises ``Garbled``."""
        if self._begun is None:
            end = self._buffer.find(b"\n", self._searched)
            if end < 0:
                self._searched = len(self._buffer)
                if self._searched > MAX_LINE_BYTES:
                    raise Garbled(f"{self._searched} bytes without an end")
                return None
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._searched = 0
            self._begun, self._sizes = _message(line)
        if len(self._buffer) < sum(self._sizes):
            return None
        message, self._begun = self._begun, None
        if self._sizes:
            message["parts"] = parts = []
            for size in self._sizes:
                parts.append(bytes(memoryview(self._buffer)[:size]))
                del self._buffer[:size]
        return message

    def fill(self) -> bool:
        """Read what is there, waiting for a first byte; False when the other side is gone."""
        try:
            if self._takes_descriptors:
                data, came, _, _ = socket.recv_fds(self._end, CHUNK_BYTES, MAX_DESCRIPTORS)
                self.descriptors += came
            else:
                data = self._end.recv(CHUNK_BYTES)
        except ConnectionError:
            return False
        self._buffer += data
        return bool(data)

    def close(self) -> None:
        """Close this end."""
        self._end.close()


def _message(line: bytes) -> tuple[Message, list[int]]:
    """A line as a message, and how many bytes each of its parts has; raises ``Garbled``."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise Garbled(ascii(line[:60])) from None
    if not isinstance(message, dict):
        raise Garbled(ascii(line[:60]))
    sizes = message.get("parts", [])
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise Garbled(ascii(line[:60]))
    if sum(sizes) > MAX_PARTS_BYTES:
        raise Garbled(f"a message of {sum(sizes)} bytes")
    return message, sizes


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
