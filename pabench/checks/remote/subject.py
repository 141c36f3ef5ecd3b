# SPDX-License-Identifier: Apache-2.0
"""A subject in a process of its own: started, asked, and started again after it has ended."""

from __future__ import annotations

import contextlib
import io
import itertools
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from pabench.checks.outcome import Outcome
from pabench.checks.remote.allocator import RemoteAllocator
from pabench.checks.remote.answers import Answers, error_of
from pabench.checks.remote.arena import Arena, lend, segments
from pabench.checks.remote.backend import RemoteBackend
from pabench.checks.remote.device import RemoteDevice
from pabench.checks.remote.errors import SubjectEnded
from pabench.checks.remote.facts import RemoteFacts, read_facts
from pabench.device.registry import DeviceRequest
from pabench.errors import EnvironmentRefused, PabenchError, Unsupported
from pabench.problem.huge_pool import lent_by
from pabench.run.channel import Message
from pabench.run.deadlines import DEFAULT_DEADLINE_S
from pabench.run.ending import Ending
from pabench.run.workers import ForkServer, Worker, WorkerEnded
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.process.memory import lent

RESCHEDULE = "reschedule"
ENTRY = "pabench.subjects.process.serve:work"


class RemoteSubject:
    """A context manager: the subject's process and all that it starts end with it.

    Checks are given ``backend`` or ``new_allocator``, and ``device``; these stay good when the process has to
    be started again.

    Attributes:
        lives: how often the process was started.
        trips: how many calls were answered, or should have been.

    Args:
        fork_server: where the process is started, which then serves nobody else; None for one of its own.
        device: opened in the subject's process.
        kind: ``backend`` or ``allocator``.
        name: of the subject, or its place.
        deadline_s: seconds that one call may take.
        path: for a fork server of its own, folders in which modules are looked for first.
        loaded: another process has loaded it before: that it cannot be loaded is its end, and no refusal.
    """

    def __init__(
        self,
        fork_server: ForkServer | None,
        device: DeviceRequest,
        kind: str,
        name: str,
        *,
        deadline_s: float = DEFAULT_DEADLINE_S,
        path: Sequence[str] = (),
        loaded: bool = False,
    ) -> None:
        self.kind, self.name, self.deadline_s = kind, name, deadline_s
        self.lives, self.trips = 0, 0
        self._loaded = loaded
        self._own = fork_server is None
        self._fork_server = ForkServer(ENTRY, path=path) if fork_server is None else fork_server
        self._request = device
        self._worker: Worker | None = None
        self._sent: set[int] = set()
        self._waiting: list[tuple[str, tuple[Any, ...]]] = []
        self._numbers = itertools.count(1)
        self._arena = Arena()
        self._begins = False
        self._lending = contextlib.ExitStack()
        self._facts: RemoteFacts | None = None
        self._device: RemoteDevice | None = None
        self._backend: RemoteBackend | None = None

    def __enter__(self) -> RemoteSubject:
        self._lending.enter_context(lent_by(lend))
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def facts(self) -> RemoteFacts:
        """What the subject is and declares, as it said when it was first started."""
        if self._facts is None:
            raise PabenchError(f"{self.kind} {self.name!r} has not been started")
        return self._facts

    @property
    def device(self) -> RemoteDevice:
        """What checks may ask of the device."""
        if self._device is None:
            self._device = RemoteDevice(self)
        return self._device

    @property
    def backend(self) -> RemoteBackend:
        """The backend.

        Raises:
            Unsupported: what it runs cannot be had here; the message says why.
        """
        self._must_be("backend")
        if self._backend is None:
            self._backend = RemoteBackend(self, self.facts.backend)
        return self._backend

    def new_allocator(self, shape: PoolShape) -> RemoteAllocator:
        """Return an empty allocator.

        Raises:
            Unsupported: what it runs cannot be had here, or it lacks what the shape asks for.
        """
        self._must_be("allocator")
        return RemoteAllocator(self, shape)

    def begin_case(self) -> None:
        """Say that what was lent and made before is not used any more; costs no trip."""
        self.ready()
        self._arena.begin()
        self._begins = True

    def judge(self, run: Any, case: Any) -> Outcome:
        """Run a check of ``CHECKS`` or ``ALLOCATOR_CHECKS`` on a case of its own."""
        self.begin_case()
        subject = self.backend if self.kind == "backend" else self.new_allocator
        outcome: Outcome = run(case, subject, self.device)
        return outcome

    def task(self, place: str, arguments: Mapping[str, Any]) -> Any:
        """Run a function of pabench beside the subject, see ``run_task``; what it says is not proven."""
        return self.call("task", place, dict(arguments))

    def restart(self) -> None:
        """End the process and start it again: nothing of what it did stays."""
        self._end()
        self._start()

    def close(self) -> None:
        """End the process, and the fork server when it has one of its own."""
        self._end()
        self._lending.close()
        if self._own:
            self._fork_server.close()

    # --- for the proxies ------------------------------------------------------------------------------

    def number(self) -> int:
        """Return a number that was not used before."""
        return next(self._numbers)

    def ready(self) -> None:
        """Start the process when it has ended before."""
        if self._worker is None:
            self._start()

    def later(self, name: str, *given: Any) -> None:
        """Call when there is a call that waits for an answer; what it raises, that one raises.

        After the end of the process there is nothing to say but what the next one has to know too.
        """
        if self._worker is not None or name == RESCHEDULE:
            self._waiting.append((name, given))

    def call(self, name: str, *given: Any, **named: Any) -> Any:
        """Call and return the answer; starts the process when it has ended before.

        Raises:
            SubjectRaised: the subject raised what is no error of ours.
            PabenchError: the subject raised it, of this very class.
            SubjectEnded: the process ended, or was ended.
            KeyboardInterrupt: the fork server was halted.
        """
        self.ready()
        waiting, self._waiting = self._waiting, []
        return self._asked(name, given, named, waiting)

    def _asked(
        self,
        name: str,
        given: tuple[Any, ...],
        named: dict[str, Any],
        waiting: Sequence[tuple[str, tuple[Any, ...]]] = (),
    ) -> Any:
        worker = self._worker
        if worker is None:
            raise SubjectEnded(Ending(text="could not be started again"))
        request = io.BytesIO()
        Request(request, self._arena).dump((waiting, name, given, named))
        head: dict[str, Any] = {"ask": name}
        if self._begins:
            # a segment that is given back by now is unmapped over there as well
            head["begin"], self._begins = [segment.number for segment in segments()], False
        for segment in segments():
            if segment.number not in self._sent:
                self._sent.add(segment.number)
                told = {"segment": [segment.number, segment.size]}
                worker.send(told, descriptors=[segment.descriptor])
        worker.send(head, [request.getbuffer()])
        self.trips += 1
        try:
            answer = self._answer(worker.receive(self.deadline_s))
        except WorkerEnded as ended:
            self._end()
            if self._fork_server.halted:
                raise KeyboardInterrupt from None
            raise SubjectEnded(ended.ending) from None
        except PabenchError as broke:
            # our own code over there fell over: it runs on what the subject has made of Python and numpy
            self._end()
            raise SubjectEnded(Ending(text=f"answers no more: {broke}")) from None
        except BaseException:
            # whoever goes on would take the answer to this call for that to the next
            self._end()
            raise
        if isinstance(answer, Raised):
            raise answer.error
        return answer

    def _answer(self, message: Message) -> Any:
        """The value of an answer, or ``Raised``; raises ``WorkerEnded`` when there is no sense in it."""
        try:
            if message["event"] == "answer":
                return Answers(message.get("parts", ()), self._arena.found).read(message["value"])
            if message["event"] == "raised":
                return Raised(error_of(message["error"]))
            text = str(message["text"])[:200]
        except Exception as nonsense:
            # whatever it is that cannot be read, the subject's process has said it
            text = f"answered what is no answer: {type(nonsense).__name__}: {nonsense}"[:200]
        raise WorkerEnded(Ending(text=text))

    def _start(self) -> None:
        self._end(wait=True)
        self._worker = self._fork_server.start()
        self._sent = set()
        self.lives += 1
        device = self._request.to_dict()
        try:
            facts = self._asked("open", (device, self.kind, self.name), {})
        except SubjectEnded as ended:
            if self._loaded:
                raise _lost(ended.ending.text, hung=ended.ending.hung) from None
            raise EnvironmentRefused(
                f"{self.kind} {self.name!r} cannot be loaded: {ended.ending.text}"
            ) from None
        except Exception as error:
            self._end()
            if self._loaded:
                raise _lost(str(error)) from None
            raise
        self._loaded = True
        if self._facts is None:
            # what it declares later is not asked
            self._facts = read_facts(self, self.kind, self.name, facts)

    def _end(self, *, wait: bool = False) -> None:
        if not wait:
            self._waiting.clear()
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def _must_be(self, kind: str) -> None:
        if self.kind != kind:
            raise TypeError(f"{self.name} is no {kind}")
        if self.facts.lacking is not None:
            raise Unsupported(self.facts.lacking)


def _lost(why: str, *, hung: bool = False) -> SubjectEnded:
    return SubjectEnded(Ending(text=f"could not be started again: {why}", hung=hung))


@dataclass(frozen=True, slots=True)
class Raised:
    """What a call raised."""

    error: Exception


class Request(pickle.Pickler):
    """A request, with arrays as places in the arena."""

    def __init__(self, file: io.BytesIO, arena: Arena) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._arena = arena

    def reducer_override(self, obj: Any) -> Any:
        """Return how an array is found over there; pickle asks it of few objects, and of no number."""
        return (lent, self._arena.put(obj)) if isinstance(obj, np.ndarray) else NotImplemented
