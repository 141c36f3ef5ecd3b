# SPDX-License-Identifier: Apache-2.0
"""The supervisor's side: starts workers, listens with a deadline, ends them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import IO

from pabench.errors import EnvironmentRefused, PabenchError
from pabench.run.channel import CHUNK_BYTES, Channel, Garbled, Message
from pabench.run.ending import Ending, ending_of, hung

OUTPUT_BYTES = 2**14
"""The end of a worker's output that is kept."""
DUMP_SECONDS = 5.0
"""How long a hanging worker has for its fault dump, and one that says no more for its end."""
SOON_SECONDS = 0.02
"""Answers that take longer have the time noted that the worker waits for a core."""
SEND_SECONDS = 60.0
"""How long a message waits for a worker that does not take it."""
# the script's own folder stays out of the path, and the path is the parent's
BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from pabench.run.forkserver import main; main(int(sys.argv[2]), *sys.argv[3:])"
)


class WorkerEnded(Exception):
    """The worker ended, or was ended, before it had said all."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.text)
        self.ending = ending


class Control(Channel):
    """The socket to the fork server: orders go out as bytes, reports come in as messages."""

    def order(self, order: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Send ``s`` with a worker's socket and output, or ``r``."""
        socket.send_fds(self._end, [order], descriptors)


class Worker:
    """A running worker; made by ``ForkServer.start``.

    Attributes:
        pid: its process, which leads a process group of its own.
    """

    def __init__(self, control: Control) -> None:
        self._control = control
        ours, theirs = socket.socketpair()
        self._output, output = os.pipe()
        self._silent = False
        self._said = bytearray()
        self._ended: Message | None = None
        self._gone = False
        with theirs:
            try:
                control.order(b"s", (theirs.fileno(), output))
                answer = control.receive()
                if answer is None:
                    raise ConnectionResetError("the fork server is gone")
            except BaseException:
                ours.close()
                os.close(self._output)
                raise
            finally:
                os.close(output)
        # a worker that does not listen must not hold up whoever speaks to it
        seconds = struct.pack("ll", int(SEND_SECONDS), 0)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, seconds)
        self._channel = Channel(ours)
        self.pid = int(answer["pid"])

    def send(
        self,
        message: Mapping[str, object],
        parts: Sequence[bytes | memoryview] = (),
        descriptors: Sequence[int] = (),
    ) -> None:
        """Send a message, as ``Channel`` does; that the worker is gone shows when it is listened to."""
        with contextlib.suppress(OSError):
            self._channel.send(message, parts, descriptors)

    def receive(self, deadline_s: float) -> Message:
        """Return the next message.

        Args:
            deadline_s: seconds of silence that count as hanging; the worker is then killed.  Time in which it
                could run and had no core does not count.

        Raises:
            WorkerEnded: it died, hangs, or writes what is no message; it is dead by then.
            PabenchError: its own code failed, which is a fault of pabench.
        """
        begun, starved_s = time.monotonic(), 0.0
        end = begun + deadline_s
        soon: float | None = begun + min(deadline_s, SOON_SECONDS)
        while True:
            try:
                message = self._channel.next()
            except Garbled as garbled:
                self._kill()
                raise WorkerEnded(Ending(text=f"wrote into the suite's own channel: {garbled}")) from None
            if message is not None:
                if message.get("event") == "broke":
                    self._kill()
                    raise PabenchError(f"a worker process failed: {message['text']}")
                return message
            if self._gone:
                raise WorkerEnded(self._ending())
            dead = self._ended is not None
            # looked at even when time is up: the supervisor itself may have been the one that slept
            if self._wait(max(0.0, (soon or end) - time.monotonic())):
                self._gone = not self._channel.fill()
            elif dead:
                # and all that it said has been heard; a copy of it may still hold the channel open
                self._gone = True
            elif soon is not None:
                # most answers are there before it matters how long the worker waits for a core
                starved_s, soon = self._starved_s(), None
            elif (more_s := self._starved_s() - starved_s) > 0.0:
                # a busy machine is not a hanging worker
                end, starved_s = end + more_s, starved_s + more_s
            elif time.monotonic() >= end and self._ended is None:
                # the fault handler answers to this one; it is for the worker alone
                self._signal(signal.SIGABRT, kills=(os.kill,))
                self._listen_until_end(DUMP_SECONDS)
                self._kill()
                raise WorkerEnded(hung(deadline_s, self._text()))

    def kill(self) -> None:
        """Kill the worker and everything in its process group; whoever listens to it learns of its end."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """Kill the worker and everything that it has started, and wait for its end."""
        if self._output < 0:
            return
        self._kill()
        self.forget()

    def forget(self) -> None:
        """Close what belongs to the worker on this side."""
        if self._output >= 0:
            self._channel.close()
            os.close(self._output)
            self._output = -1

    def _ending(self) -> Ending:
        """The end of a worker whose channel has ended: dead, or about to be."""
        self._listen_until_end(DUMP_SECONDS)
        alive = self._ended is None
        self._kill()
        if alive:
            return Ending(text="closed the channel to the suite")
        if self._ended is None or "code" not in self._ended:
            return Ending(text="killed together with its parent process")
        return ending_of(int(self._ended["code"]), int(self._ended["status"]), self._text())

    def _kill(self) -> None:
        self.kill()
        while self._ended is None:
            self._wait(None)
        if "buried" not in self._ended:
            self._ended["buried"] = True
            with contextlib.suppress(OSError):
                self._control.order(b"r")

    def _signal(
        self, number: int, kills: tuple[Callable[[int, int], None], ...] = (os.killpg, os.kill)
    ) -> None:
        # not yet buried by the fork server, so the number is still the worker's own
        if self._ended is None:
            for kill in kills:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(self.pid, number)

    def _listen_until_end(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self._ended is None and (left := end - time.monotonic()) > 0:
            self._wait(left)
        self._wait(0.0)

    def _wait(self, seconds: float | None) -> bool:
        """Wait for any sign, keep output and ending, and say whether the channel has something."""
        sources: list[Channel | int] = [] if self._silent else [self._output]
        if not self._gone and seconds is not None:
            sources.append(self._channel)
        if self._ended is None:
            sources.append(self._control)
        ready = select.select(sources, [], [], 0.0 if self._ended is not None else seconds)[0]
        if self._output in ready:
            data = os.read(self._output, CHUNK_BYTES)
            self._silent = not data
            self._said = (self._said + data)[-OUTPUT_BYTES:]
        if self._control in ready:
            self._ended = (self._control.receive() if self._control.fill() else None) or {}
        return self._channel in ready

    def _starved_s(self) -> float:
        """Return how long the first thread has waited for a core; 0 where the system does not say."""
        try:
            with open(f"/proc/{self.pid}/schedstat", encoding="ascii") as file:
                return int(file.read().split()[1]) * 1e-9
        except (OSError, ValueError, IndexError):
            return 0.0

    def _text(self) -> str:
        return self._said.decode(errors="replace")


class ForkServer:
    """Starts workers that run one function; a context manager that leaves no process behind.

    Args:
        entry: ``module:function``; called in each worker with its ``Channel``.
        path: folders in which workers look for modules before all others.
        preload: modules that workers will want, imported once.
    """

    def __init__(self, entry: str, *, path: Sequence[str] = (), preload: Sequence[str] = ()) -> None:
        self._entry, self._preload = entry, tuple(preload)
        self._path = [*path, *sys.path]
        self._process: subprocess.Popen[bytes] | None = None
        self._worker: Worker | None = None
        self._control: Control
        self._log: IO[bytes]
        self._proven = False
        self._halted = False
        self._launch()

    def start(self) -> Worker:
        """Start a worker, after the end of the one before.

        Raises:
            EnvironmentRefused: no process can be started; the message has its last words.
            KeyboardInterrupt: another thread has called ``halt``.
        """
        self.stop()
        try:
            self._worker = Worker(self._control)
        except (OSError, Garbled):
            if self._proven:
                # killed by somebody, since it has worked before: once more, with a new one
                self._launch()
                return self.start()
            self._log.seek(0)
            said = self._log.read().decode(errors="replace").strip().splitlines()
            why = said[-1] if said else "it ended without a word"
            raise EnvironmentRefused(f"no worker process can be started: {why}") from None
        self._proven = True
        if self._halted:
            self.stop()
            raise KeyboardInterrupt
        return self._worker

    @property
    def halted(self) -> bool:
        """Whether ``halt`` was called."""
        return self._halted

    def halt(self) -> None:
        """End the worker from another thread than the one that listens to it, and start no more."""
        self._halted = True
        if (worker := self._worker) is not None:
            worker.kill()

    def stop(self) -> None:
        """End the worker that runs, if one does."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def close(self) -> None:
        """End worker and fork server."""
        if self._process is None:
            return
        # the end of the socket is the order to end, and to take the worker along
        self._control.close()
        if self._worker is not None:
            self._worker.forget()
            self._worker = None
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._log.close()

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _launch(self) -> None:
        self.close()
        self._proven = False
        ours, theirs = socket.socketpair()
        self._control = Control(ours)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the fork server
        arguments = [json.dumps(self._path), str(theirs.fileno()), self._entry, *self._preload]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", BOOT, *arguments],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                # a Ctrl-C in the terminal is for the supervisor alone
                start_new_session=True,
            )
