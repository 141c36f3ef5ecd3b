# SPDX-License-Identifier: Apache-2.0
"""A backend in another process, with the protocol of one that is here."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pabench.checks.remote.errors import SubjectEnded
from pabench.checks.remote.facts import BackendFacts, Caller
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem
from pabench.problem.tensors import Tensors
from pabench.run.ending import Ending
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.process.backend_calls import OWN, SUBJECT

GONE = Ending(text="what was made in the subject's process is gone with it")


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class RemotePlan:
    """A plan in the subject's process, which forgets it when it is forgotten here.

    Attributes:
        number: what it is called there.
        life: which start of the process it was made in.
    """

    number: int
    life: int


class RemoteBackend:
    """Asks the subject's process for everything that a backend does.

    Args:
        subject: whose process it is.
        facts: what it declares.
        which: the backend on trial, or our own kernel beside it.
    """

    def __init__(self, subject: Caller, facts: BackendFacts, which: str = SUBJECT) -> None:
        self.name = facts.name
        self.capabilities: Capabilities = facts.capabilities
        self.profile = facts.profile
        self.captures = facts.captures
        self.takes_resident = facts.takes_resident
        self._subject = subject
        self._which = which

    def attend_at_once(self, tensors: Tensors) -> AttentionOutput:
        """Plan, run and fetch in one trip."""
        output: AttentionOutput = self._subject.call("attend", self._which, tensors)
        return output

    def plan(self, tensors: Tensors) -> RemotePlan:
        """See ``Backend``."""
        number = self._subject.number()
        self._subject.call("plan", self._which, number, tensors)
        return self._planned(number)

    def run(self, plan: RemotePlan) -> None:
        """See ``Backend``."""
        self._on("run", plan)

    def layer(self, plan: RemotePlan, q: Array, pool: KvPool) -> RemotePlan:
        """See ``LayeredBackend``."""
        number = self._subject.number()
        self._on("layer", plan, number, q, pool)
        return self._planned(number)

    def prepare(self, plan: RemotePlan) -> None:
        """See ``LayeredBackend``."""
        self._on("prepare", plan)

    def run_layer(self, plan: RemotePlan) -> None:
        """See ``LayeredBackend``."""
        self._on("run_layer", plan)

    def fetch(self, plan: RemotePlan) -> AttentionOutput:
        """See ``Backend``; what comes is a copy."""
        output: AttentionOutput = self._on("fetch", plan)
        return output

    def fetched_again(self, plan: RemotePlan) -> AttentionOutput:
        """Return what ``fetch`` returned over there, as it stands by now."""
        output: AttentionOutput = self._on("again", plan)
        return output

    def graph(self, plan: RemotePlan) -> Callable[[], None] | None:
        """See ``graph_of``."""
        return partial(self._on, "replay", plan) if self._on("capture", plan) else None

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """See ``Backend``."""
        after: Array = self._method("append", pool, dtype, keys, values, slot_mapping)
        return after

    def append_e4m3(
        self, pool: KvPool, problem: Problem, keys: Array, values: Array, slot_mapping: Array
    ) -> Array:
        """See ``CacheBackend``."""
        after: Array = self._method("append_e4m3", pool, problem, keys, values, slot_mapping)
        return after

    def append_stored(
        self, pool: KvPool, problem: Problem, keys: Array, values: Array, slot_mapping: Array
    ) -> Array:
        """See ``CacheBackend``."""
        after: Array = self._method("append_stored", pool, problem, keys, values, slot_mapping)
        return after

    def append_paged(
        self, pool: KvPool, problem: Problem, keys: Array, values: Array, **where: Array
    ) -> Array:
        """See ``CacheBackend``."""
        after: Array = self._method("append_paged", pool, problem, keys, values, **where)
        return after

    def copy_pages(self, pools: Sequence[KvPool], copies: Array, *, count: int) -> Any:
        """See ``CacheBackend``."""
        return self._method("copy_pages", pools, copies, count=count)

    def gather(self, pool: KvPool, problem: Problem, **where: Any) -> Any:
        """See ``CacheBackend``."""
        return self._method("gather", pool, problem, **where)

    def merge_states(self, outs: Array, lses: Array, dtype: str) -> Any:
        """See ``CacheBackend``."""
        return self._method("merge_states", outs, lses, dtype)

    def merge_states_in_place(self, outs: Array, lses: Array, dtype: str) -> Any:
        """See ``CacheBackend``."""
        return self._method("merge_states_in_place", outs, lses, dtype)

    def written(self, pages: Array, name: str, *given: Any, **named: Any) -> Any:
        """Call what writes into a cache larger than memory, and return these pages of what it returns."""
        return self._subject.call("pages", self._which, pages, name, given, named)

    def _method(self, name: str, *given: Any, **named: Any) -> Any:
        return self._subject.call("method", self._which, name, given, named)

    def _planned(self, number: int) -> RemotePlan:
        plan = RemotePlan(number=number, life=self._subject.lives)
        weakref.finalize(plan, self._subject.later, "release", number)
        return plan

    def _on(self, call: str, plan: RemotePlan, *given: Any) -> Any:
        if plan.life != self._subject.lives:
            raise SubjectEnded(GONE)
        return self._subject.call(call, plan.number, *given)


def own_backend(subject: Caller, facts: BackendFacts) -> RemoteBackend:
    """Return our readable kernel on the device of a subject's process."""
    return RemoteBackend(subject, facts, which=OWN)
