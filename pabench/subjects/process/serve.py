# SPDX-License-Identifier: Apache-2.0
"""The process of one subject: opens the device, loads the subject, answers calls until its judge is gone.

Requests are pickled by the judge, whom this side trusts; an array in them is a place in memory that the judge
has lent.  Answers are JSON and raw bytes, since the judge trusts nothing that is said here.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

from pabench.device.registry import DeviceRequest, require_kernels
from pabench.run.channel import Channel, Message
from pabench.run.forks import FORKED, ForkGuard
from pabench.subjects.backends.base import Backend
from pabench.subjects.process.allocator_calls import AllocatorCalls
from pabench.subjects.process.answers import Answer, Plain
from pabench.subjects.process.backend_calls import BackendCalls
from pabench.subjects.process.facts import launches, load, place_of
from pabench.subjects.process.memory import Inputs, lent
from pabench.subjects.process.raised import told
from pabench.subjects.process.room_calls import RoomCalls
from pabench.subjects.process.tasks import run_task
from pabench.subjects.process.tasks import told as told_result


def work(channel: Channel) -> None:
    """Serve one subject: what a worker of the fork server does."""
    served = Served(channel)
    while (message := channel.receive()) is not None:
        served.hear(message)


class Served:
    """The subject, once the first message has named it, and what is lent to it and made by it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._inputs = Inputs()
        self._guard = ForkGuard()
        self._calls: dict[str, Callable[..., Any]] = {"open": self._open}

    def hear(self, message: Message) -> None:
        """Take a segment of inputs, or answer a request."""
        if "segment" in message:
            number, size = message["segment"]
            self._inputs.add(number, size, self._channel.descriptors.pop(0))
            return
        if "begin" in message:
            # before the request is read, whose arrays are those of the new case
            self._inputs.keep(message["begin"])
        try:
            # whatever is raised here is the subject's: it may have replaced what our own code calls
            answer = Answer(self._done(message["parts"][0]), self._inputs)
            said: Message = {"event": "answer", "value": answer.value}
            parts = answer.parts
        except BaseException as error:
            said, parts = {"event": "raised", "error": told(error)}, []
        if self._guard.copy_came_back():
            said, parts = {"event": "ended", "text": FORKED}, []
        self._channel.send(said, parts)

    def _done(self, request: bytes) -> Any:
        """Do what is asked, after what came before and waited for it."""
        before, name, given, named = Request(request, self._inputs).load()
        for early, arguments in before:
            self._calls[early](*arguments)
        return self._calls[name](*given, **named)

    def _open(self, device: dict[str, Any], kind: str, name: str) -> Plain:
        request = DeviceRequest(**device)
        opened = request.open(must_run=False)
        subject, facts = load(kind, name, opened)
        if launches(subject):
            require_kernels(opened, request.name)
        rooms = RoomCalls(opened)
        backend: Backend | None = None
        if kind == "backend":
            backend = subject  # type: ignore[assignment]
        elif subject is not None:
            self._calls |= AllocatorCalls(subject, opened).calls  # type: ignore[arg-type]
        self._calls |= rooms.calls | BackendCalls(backend, opened, rooms).calls
        self._calls["synchronize"] = opened.synchronize
        self._calls["reschedule"] = opened.reschedule
        self._calls["asked"] = lambda: _taken(getattr(opened, "asked", set()))
        self._calls["task"] = lambda place, arguments: told_result(
            run_task(place, arguments, subject=subject, device=opened)
        )
        about = {"name": opened.name, "description": place_of(subject, opened)}
        return Plain(facts | {"device": about, "kind": kind})


class Request(pickle.Unpickler):
    """A request of the judge's, with arrays in the memory that it has lent."""

    def __init__(self, request: bytes, inputs: Inputs) -> None:
        super().__init__(io.BytesIO(request))
        self._inputs = inputs

    def find_class(self, module: str, name: str) -> Any:
        """Return what a request names; ``lent`` is the memory that is at hand here."""
        if (module, name) == (lent.__module__, lent.__name__):
            return lambda *place: self._inputs.array(place)
        return super().find_class(module, name)


def _taken(names: set[str]) -> list[str]:
    """The names, which are then forgotten."""
    found = sorted(names)
    names.clear()
    return found
