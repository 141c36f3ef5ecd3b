# SPDX-License-Identifier: Apache-2.0
"""Backends that misbehave, each in one way; the tests enter them in the registry by name."""

from __future__ import annotations

import itertools
import os
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.kernels.decode_simple import AttentionPlan
from pabench.problem import Tensors
from pabench.problem.profile import NumericsProfile
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.rawkernel import RawKernelBackend


@dataclass(slots=True)
class Call:
    """The kernel's plan, and the arrays it came from."""

    plan: AttentionPlan
    tensors: Tensors


class Good:
    """Right: our kernel, for float32 and head_dim 16 alone so that one instance is compiled."""

    name = "good"
    capabilities = Capabilities(
        dtypes=frozenset({"float32"}), max_head_dim=16, operations=frozenset({"decode"})
    )
    profile = NumericsProfile()

    def __init__(self, device: Device) -> None:
        self._kernel = RawKernelBackend(device)

    def plan(self, tensors: Tensors) -> Any:
        return Call(self._kernel.plan(tensors), tensors)

    def run(self, plan: Any) -> None:
        self._kernel.run(plan.plan)

    def fetch(self, plan: Any) -> Any:
        return self._kernel.fetch(plan.plan)


class Raises(Good):
    def run(self, plan: Any) -> None:
        raise ValueError("first line\nsecond line")


class RaisesFromLength(Good):
    def plan(self, tensors: Tensors) -> Any:
        if max(tensors.kv_lens) >= 40:
            raise RuntimeError("no more than 39 tokens")
        return super().plan(tensors)


class Exits(Good):
    def run(self, plan: Any) -> None:
        sys.exit(0)


class WrongShape(Good):
    def fetch(self, plan: Any) -> Any:
        output: AttentionOutput = super().fetch(plan)
        return replace(output, out=output.out[:, :, :-1])


class WrongType(Good):
    def fetch(self, plan: Any) -> Any:
        output: AttentionOutput = super().fetch(plan)
        return replace(output, out=output.out.astype(np.float64))


class ReturnsNothing(Good):
    def fetch(self, plan: Any) -> Any:
        return None


class ReturnsTuple(Good):
    def fetch(self, plan: Any) -> Any:
        output: AttentionOutput = super().fetch(plan)
        return output.out, output.lse


class NoOutput(Good):
    def fetch(self, plan: Any) -> Any:
        return AttentionOutput(out=None, lse=None)  # type: ignore[arg-type]


class NoLse(Good):
    def fetch(self, plan: Any) -> Any:
        return replace(super().fetch(plan), lse=None)


class Nan(Good):
    def fetch(self, plan: Any) -> Any:
        output: AttentionOutput = super().fetch(plan)
        output.out[-1, -1, -1] = np.nan
        return output


class ChangesQueries(Good):
    def fetch(self, plan: Any) -> Any:
        output = super().fetch(plan)
        plan.tensors.q[...] = 0
        return output


class ChangesCache(Good):
    def fetch(self, plan: Any) -> Any:
        output = super().fetch(plan)
        plan.tensors.pool.storage.reshape(-1)[-1:] = 7
        return output


class Babbles(Good):
    def run(self, plan: Any) -> None:
        print("garbage on stdout")  # noqa: T201
        os.write(1, b"more garbage on stdout\n")
        os.write(2, b"and on stderr\n")
        super().run(plan)


class Undecided(Good):
    """Right on two calls of three."""

    counter = itertools.count(1)

    def fetch(self, plan: Any) -> Any:
        output: AttentionOutput = super().fetch(plan)
        if next(self.counter) % 3 == 0:
            output.out[0, 0, 0] += 1
        return output


class NoCapabilities:
    profile = NumericsProfile()

    def __init__(self, device: Device) -> None: ...


class CannotStart:
    def __init__(self, device: Device) -> None:
        raise OSError("the vendor's library is missing")


class DrawsNothing(Good):
    capabilities = Capabilities(dtypes=frozenset(), operations=frozenset({"decode"}))


class OnlyPrefill(Good):
    capabilities = Capabilities(dtypes=frozenset({"float32"}), operations=frozenset({"prefill"}))


class Interrupts(Good):
    """Ctrl-C in the middle of the second check."""

    counter = itertools.count(1)

    def run(self, plan: Any) -> None:
        if next(self.counter) == 70:
            os.kill(os.getpid(), 2)
        super().run(plan)
