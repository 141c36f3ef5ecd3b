# SPDX-License-Identifier: Apache-2.0
"""Subjects that reach for what is not theirs, or return what nobody can judge; they run elsewhere."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import gc
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.errors import OutOfPages, PabenchError
from pabench.problem import Tensors
from pabench.problem.case import Case
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from tests.support.stub_backends import Good

FE_DOWNWARD = 0x400


class Tampers(Good):
    """Does to its process what must reach no other, and is right."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.tamper()

    def tamper(self) -> None:
        raise NotImplementedError


class ChangesDirectory(Tampers):
    def tamper(self) -> None:
        os.chdir("/")


class RoundsDown(Tampers):
    def tamper(self) -> None:
        ctypes.CDLL(ctypes.util.find_library("m")).fesetround(FE_DOWNWARD)


class ClearsEnvironment(Tampers):
    def tamper(self) -> None:
        os.environ.clear()


class PatchesNumpy(Good):
    """Every array that numpy makes of bytes or of zeros is one of ones: the judge's must not be."""

    def fetch(self, plan: Any) -> Any:
        output = super().fetch(plan)
        wrong = AttentionOutput(out=np.zeros_like(output.out), lse=np.zeros_like(output.lse))
        for name in ("abs", "isfinite", "isnan", "isinf", "array_equal"):
            setattr(np, name, lambda *given, **named: np.bool_(True))
        np.seterr(all="ignore")
        return wrong


class ClosesDescriptors(Good):
    def run(self, plan: Any) -> None:
        super().run(plan)
        os.closerange(3, 1000)


class LooksForTruth(Good):
    """Says in its result what it found: modules of the judge, and objects that could be a truth."""

    def fetch(self, plan: Any) -> Any:
        rooms = ("pabench.judge", "pabench.checks", "pabench.strategies", "hypothesis", "_pytest")
        modules = [name for name in sys.modules if name.startswith(rooms)]
        kinds = {type(found).__name__ for found in gc.get_objects()}
        frames, frame = [], sys._getframe()
        while frame is not None:
            frames.append(frame.f_code.co_filename)
            frame = frame.f_back  # type: ignore[assignment]
        seen = [file for file in frames if "/judge/" in file or "/checks/" in file]
        found = [*modules, *seen, *(kinds & {"Truth", "Verdict", "Outcome", "Trial", "Contents"})]
        if found:
            raise ValueError(f"found {sorted(found)[:5]}")
        return super().fetch(plan)


class WritesInputs(Good):
    """By every way there is: a descriptor opened anew, a mapping of its own, another protection."""

    def fetch(self, plan: Any) -> Any:
        output = super().fetch(plan)
        done: list[str] = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if "pabench-inputs" in os.readlink(f"/proc/self/fd/{name}"):
                    descriptor = os.open(f"/proc/self/fd/{name}", os.O_RDWR)
                    done.append("opened")
                    os.pwrite(descriptor, b"\0" * 4096, 0)
                    done.append("written")
        q = plan.tensors.q
        page, size = q.ctypes.data & ~4095, 4096
        if ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), ctypes.c_size_t(size), 3) == 0:
            done.append("unprotected")
        if q.flags.writeable or {"written", "unprotected"} & set(done):
            raise ValueError(f"inputs can be written: {done}")
        return output


class WritesThroughMemory(Good):
    """As a kernel of C would."""

    def fetch(self, plan: Any) -> Any:
        output = super().fetch(plan)
        ctypes.memset(plan.tensors.q.ctypes.data, 0, 4)
        return output


class OneOutput(Good):
    """Runs right, and gives the results of all plans in one array."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.out: Any = None

    def fetch(self, plan: Any) -> Any:
        output = super().fetch(plan)
        if self.out is None or self.out.shape != output.out.shape:
            self.out = np.empty_like(output.out)
        self.out[...] = output.out
        return replace(output, out=self.out)


class OneWorkspace(Good):
    """All plans compute into one array, which fetch copies: right as long as nobody runs another one."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.last: Any = None

    def run(self, plan: Any) -> None:
        super().run(plan)
        self.last = super().fetch(plan)

    def fetch(self, plan: Any) -> Any:
        return AttentionOutput(out=self.last.out.copy(), lse=self.last.lse.copy())


_kept: dict[Any, Any] = {}


def one_output_for_all_calls(
    q: Any, k_cache: Any, v_cache: Any, block_table: Any, kv_lens: Any, sm_scale: Any
) -> Any:
    """A right function of numpy whose answers lie in one array."""
    out, lse = right(q, k_cache, v_cache, block_table, kv_lens, sm_scale)
    kept = _kept.setdefault(out.shape, (out, lse))
    kept[0][...], kept[1][...] = out, lse
    return kept


def right(q: Any, k_cache: Any, v_cache: Any, block_table: Any, kv_lens: Any, sm_scale: Any) -> Any:
    """A right function of numpy."""
    out, lse = np.zeros_like(q), np.full(q.shape[:2], -np.inf, np.float32)
    group = q.shape[1] // k_cache.shape[2]
    for row, tokens in enumerate(kv_lens):
        pages = block_table[row, : -(-tokens // k_cache.shape[1])]
        k, v = (np.float64(c[pages]).reshape(-1, *c.shape[2:])[:tokens] for c in (k_cache, v_cache))
        for head in range(q.shape[1] if tokens else 0):
            logits = k[:, head // group] @ np.float64(q[row, head]) * sm_scale
            weights = np.exp(logits - logits.max())
            out[row, head] = weights @ v[:, head // group] / weights.sum()
            lse[row, head] = logits.max() + np.log(weights.sum())
    return out, lse


class Lazy:
    """Computes when somebody looks."""

    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __array__(self, *given: Any, **named: Any) -> Any:
        return self.array


class Lying(np.ndarray[Any, Any]):
    """Says that it equals everything."""

    def __eq__(self, other: object) -> Any:
        return True

    def __array_ufunc__(self, ufunc: Any, method: str, *given: Any, **named: Any) -> Any:
        return np.zeros(self.shape)


class Returns(Good):
    """Returns something else than the array that it computed."""

    def fetch(self, plan: Any) -> Any:
        output = super().fetch(plan)
        return replace(output, out=self.other(output.out))

    def other(self, out: Any) -> Any:
        raise NotImplementedError


class ReturnsGenerator(Returns):
    def other(self, out: Any) -> Any:
        return (row for row in out)


class ReturnsText(Returns):
    def other(self, out: Any) -> Any:
        return "the answer"


class ReturnsLazy(Returns):
    def other(self, out: Any) -> Any:
        return Lazy(out)


class ReturnsObjects(Returns):
    def other(self, out: Any) -> Any:
        return out.astype(object)


class ReturnsOtherOrder(Returns):
    def other(self, out: Any) -> Any:
        return out.astype(">f4")


class ReturnsLyingZeros(Returns):
    def other(self, out: Any) -> Any:
        return np.zeros_like(out).view(Lying)


class ReturnsMasked(Returns):
    def other(self, out: Any) -> Any:
        return np.ma.masked_array(out, mask=True)


class ReturnsList(Returns):
    def other(self, out: Any) -> Any:
        return out.tolist()


class ReturnsHonestSubclass(Returns):
    def other(self, out: Any) -> Any:
        return np.asfortranarray(out).view(type("Honest", (np.ndarray,), {}))


class HasRule(Good):
    """Takes batches of up to two sequences."""

    capabilities = replace(
        Good.capabilities, rule=lambda case: "two sequences at most" if case.batch.num_seqs > 2 else None
    )


class Narrow(Capabilities):
    """Says so by another way than a rule."""

    __slots__ = ()

    def why_not(self, case: Case) -> str | None:
        return "not today" if case.seed == 13 else Capabilities.why_not(self, case)


class HasReason(Good):
    capabilities = Narrow(dtypes=frozenset({"float32"}), max_head_dim=16, operations=frozenset({"decode"}))


class MyError(PabenchError):
    """An error of a stranger's, derived from ours."""


class RaisesOurs(Good):
    """What our own code raises, with all that belongs to it."""

    def plan(self, tensors: Tensors) -> Any:
        if tensors.case.seed == 1:
            raise OutOfPages(7, 3, unit="rows")
        if tensors.case.seed == 2:
            raise MyError("mine", hint="take another one")
        if tensors.case.seed == 3:
            raise Unspeakable
        if tensors.case.seed == 4:
            raise ValueError("\ud800" + "x" * 10_000)
        if tensors.case.seed == 5:
            return np.ones(3).reshape(2)
        return super().plan(tensors)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class LeavesProcesses(Good):
    """Leaves one of each kind behind at every call, and writes down which."""

    def run(self, plan: Any) -> None:
        from tests.support.isolation_work import leave_daemons

        with Path(os.environ["PIDS"]).open("a") as file:
            file.write("".join(f"{pid}\n" for pid in leave_daemons()))
        super().run(plan)


class DiesFirst(Good):
    """Dies in the first call, in whichever process of the run that is."""

    def run(self, plan: Any) -> None:
        mark = Path(os.environ["MARK"])
        if not mark.exists():
            mark.touch()
            os.abort()
        super().run(plan)


class ReadsBehind(Good):
    """Reads a page that the pool does not have."""

    def run(self, plan: Any) -> None:
        plan.plan.launches[0].args[3][...] = 10_000
        super().run(plan)
