# SPDX-License-Identifier: Apache-2.0
"""Calls of a backend: plans are numbers that the judge gives out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pabench.device.base import Device
from pabench.errors import EnvironmentRefused, Unsupported
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool, pages_of
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import OPTIONAL, Backend, layered
from pabench.subjects.backends.graph import graph_of
from pabench.subjects.backends.rawkernel import RawKernelBackend
from pabench.subjects.process.room_calls import RoomCalls

SUBJECT, OWN = "subject", "own"
"""Which backend is asked: the one on trial, or our readable kernel, which reads an allocator's tables."""
METHODS = frozenset({"append", *OPTIONAL.values()})


@dataclass(slots=True, kw_only=True)
class Planned:
    """A plan of a backend.

    Attributes:
        returned: what ``fetch`` gave last, not copied, so that it can be looked at again.
        replay: what replays the plan as a graph, once it is captured.
    """

    backend: Backend
    plan: Any
    returned: Any = None
    replay: Callable[[], None] | None = None


class BackendCalls:
    """Answers for the backend on trial, or for our own where there is none."""

    def __init__(self, backend: Backend | None, device: Device, rooms: RoomCalls) -> None:
        self._backends: dict[str, Backend | None] = {SUBJECT: backend, OWN: None}
        self._device = device
        self._rooms = rooms
        self._plans: dict[int, Planned] = {}

    @property
    def calls(self) -> dict[str, Callable[..., Any]]:
        """The calls by name."""
        own = (self.attend, self.plan, self.run, self.fetch, self.again, self.release, self.method)
        layers = (self.layer, self.prepare, self.run_layer)
        more = (self.pages, self.why_not, self.capture, self.replay)
        return {call.__name__: call for call in (*own, *layers, *more)}

    def attend(self, which: str, tensors: Tensors) -> Any:
        """Plan, run and fetch."""
        backend = self._backend(which)
        plan = backend.plan(self._rooms.given(tensors))
        backend.run(plan)
        return backend.fetch(plan)

    def plan(self, which: str, number: int, tensors: Tensors) -> None:
        """Plan, and keep the plan under ``number``."""
        backend = self._backend(which)
        self._plans[number] = Planned(backend=backend, plan=backend.plan(self._rooms.given(tensors)))

    def run(self, number: int) -> None:
        """Run a plan."""
        planned = self._plans[number]
        planned.backend.run(planned.plan)

    def layer(self, first: int, number: int, q: Array, pool: KvPool) -> None:
        """Keep the plan of another layer of plan ``first`` under ``number``."""
        planned = self._plans[first]
        plan = layered(planned.backend).layer(planned.plan, q, pool)
        self._plans[number] = Planned(backend=planned.backend, plan=plan)

    def prepare(self, number: int) -> None:
        """Plan on the device, for all layers of a plan."""
        planned = self._plans[number]
        layered(planned.backend).prepare(planned.plan)

    def run_layer(self, number: int) -> None:
        """Compute the layer of a plan."""
        planned = self._plans[number]
        layered(planned.backend).run_layer(planned.plan)

    def fetch(self, number: int) -> Any:
        """Return the result of a plan."""
        planned = self._plans[number]
        planned.returned = planned.backend.fetch(planned.plan)
        return planned.returned

    def again(self, number: int) -> Any:
        """Return what ``fetch`` returned, as it stands now."""
        return self._plans[number].returned

    def release(self, number: int) -> None:
        """Forget a plan."""
        self._plans.pop(number, None)

    def method(self, which: str, name: str, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call ``append`` or one of ``OPTIONAL``."""
        if name not in METHODS:
            raise ValueError(f"no method {name!r}")
        return getattr(self._backend(which), name)(*given, **named)

    def pages(
        self, which: str, pages: Array, name: str, given: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        """Call what writes into a cache larger than memory; return these pages of what it returns."""
        return pages_of(self.method(which, name, given, named), pages)

    def why_not(self, case: Case) -> str | None:
        """Return what the backend's declaration says of a case."""
        return self._backend(SUBJECT).capabilities.why_not(case)

    def capture(self, number: int) -> bool:
        """Capture a plan as a graph; return whether the backend declares that this can be done."""
        planned = self._plans[number]
        planned.replay = graph_of(planned.backend, planned.plan)
        return planned.replay is not None

    def replay(self, number: int) -> None:
        """Replay a plan that was captured."""
        replay = self._plans[number].replay
        if replay is None:
            raise ValueError("nothing was captured")
        replay()

    def _backend(self, which: str) -> Backend:
        backend = self._backends[which]
        if backend is None:
            if which != OWN:
                raise TypeError("this process serves no backend")
            try:
                self._device.ready()
            except EnvironmentRefused as error:
                # the subject itself needs no compiler
                raise Unsupported(f"our kernel cannot run here: {error}") from None
            backend = self._backends[which] = RawKernelBackend(self._device)
        return backend
