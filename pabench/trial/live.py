# SPDX-License-Identifier: Apache-2.0
"""A kernel judged where it serves: one call in N is recorded, and judged by a process of its own meanwhile.

::

    from pabench.trial.live import judged

    run = judged(kernel, "definitions/gqa_paged_decode.json", every=1000, folder="/var/tmp/judged")

``run`` is called as the kernel is, by position or by the names of the definition's inputs, which is how Trace
Apply of FlashInfer calls a solution.  It returns what the kernel returns.  A call found wrong stays in
``folder`` as a case directory, which ``pabench replay`` judges again anywhere; of a right one nothing stays.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pabench.errors import EXIT_FAILURE, EXIT_OK, InvalidCase, reason
from pabench.exchange.definition import read_definition
from pabench.exchange.paged import LSE, OUTPUT, TABLE, PagedAttention
from pabench.exchange.paged_definition import paged_attention
from pabench.problem.checks import whole_number
from pabench.run.failures import CASE_FILE, CASE_SCHEMA
from pabench.subjects.backends.solution import natural_log

log = logging.getLogger("pabench.live")
OUTPUTS_FILE = "outputs.npz"
PENDING, WRONG = "pending", "wrong"


@dataclass(slots=True, kw_only=True)
class Counts:
    """What became of the calls.

    Attributes:
        calls: in all.
        recorded: handed to a judge.
        right, wrong: verdicts.
        skipped: due while another was judged, or while a CUDA graph was captured.
        unjudged: of which there is no verdict: the call fits no definition, or the judge did not end well.
    """

    calls: int = 0
    recorded: int = 0
    right: int = 0
    wrong: int = 0
    skipped: int = 0
    unjudged: int = 0


@dataclass(slots=True, kw_only=True)
class Judged:
    """The wrapped kernel; see ``judged``."""

    kernel: Callable[..., Any]
    attention: PagedAttention
    every: int
    folder: Path
    deadline_s: float
    counts: Counts = field(default_factory=Counts)
    _judge: subprocess.Popen[bytes] | None = None
    _case: Path | None = None
    _until: float = 0.0

    def __call__(self, *given: Any, **named: Any) -> Any:
        """Call the kernel, and record the call when its turn has come."""
        due = self.counts.calls % self.every == 0
        self.counts.calls += 1
        self._look()
        if not due:
            return self.kernel(*given, **named)
        if self._judge is not None or _capturing():
            self.counts.skipped += 1
            return self.kernel(*given, **named)
        # what the judge does must never be the end of a server
        inputs = self._guarded(lambda: self._inputs(given, named))
        result = self.kernel(*given, **named)
        if inputs is not None:
            self._guarded(lambda: self._record(inputs, self._outputs(given, named, result)))
        return result

    def close(self) -> Counts:
        """Wait for the verdict on the last call, and return the counts."""
        while self._judge is not None:
            time.sleep(0.02)
            self._look()
        return self.counts

    def _guarded(self, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except Exception as error:
            self.counts.unjudged += 1
            log.warning("call %d is not judged: %s: %s", self.counts.calls, type(error).__name__, error)
            return None

    def _inputs(self, given: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
        names = list(self.attention.definition.inputs)
        by_name = {**dict(zip(names, given, strict=False)), **named}
        inputs = self.attention.definition.inputs
        if missing := [name for name in names if name not in by_name and not inputs[name].optional]:
            raise InvalidCase("call", missing, "must give all inputs of the definition")
        attention = self.attention
        found = {**by_name, **{name: _host(by_name[name]) for name in attention.tables}}
        if TABLE[0] in found:
            # buffers of servers are longer than what is in use
            found[TABLE[1]] = found[TABLE[1]][: int(found[TABLE[0]][-1])]
        used, _ = attention.used(found)
        found = {name: {**found, **used}.get(name) for name in names}
        shapes = attention.definition.inputs
        return {
            name: None if one is None else _host(one) if shapes[name].shape is not None else float(one)
            for name, one in found.items()
        }

    def _outputs(self, given: tuple[Any, ...], named: Mapping[str, Any], result: Any) -> dict[str, Any]:
        definition = self.attention.definition
        names = list(definition.outputs)
        if result is None:
            passed = dict(zip(names, given[len(definition.inputs) :], strict=False))
            result = {**passed, **{name: named[name] for name in names if name in named}}
        if not isinstance(result, Mapping):
            values = result if isinstance(result, tuple | list) else (result,)
            result = dict(zip(names, values, strict=False))
        found = {"out": _host(result[OUTPUT])}
        if result.get(LSE) is not None:
            found["lse"] = natural_log(_host(result[LSE]))
        return found

    def _record(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        case, recording = self.attention.recorded(inputs)
        folder = self.folder / f"{PENDING}-{case.id}"
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(folder / OUTPUTS_FILE, **outputs)
        np.savez(
            folder / "arrays.npz",
            q=recording.q,
            storage=recording.storage,
            block_table=recording.block_table,
            kv_lens=np.asarray(case.batch.kv_lens, np.int32),
            qo_indptr=case.batch.qo_indptr,
        )
        record = {
            "schema": CASE_SCHEMA,
            "check": f"workload[call-{self.counts.calls}]",
            "subject": self.attention.definition.name,
            "device": "emulated",
            "kind": "attention",
            "case": case.to_dict(),
        }
        (folder / CASE_FILE).write_text(json.dumps(record), encoding="utf-8")
        words = [sys.executable, "-m", "pabench", "replay", str(folder)]
        with (folder / "verdict.txt").open("wb") as verdict:
            self._judge = subprocess.Popen(
                [*words, "--outputs", str(folder / OUTPUTS_FILE)],
                stdin=subprocess.DEVNULL,
                stdout=verdict,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._case, self._until = folder, time.monotonic() + self.deadline_s
        self.counts.recorded += 1

    def _look(self) -> None:
        """Take the verdict of the judge, when it has one."""
        judge, folder = self._judge, self._case
        if judge is None or folder is None:
            return
        code = judge.poll()
        if code is None:
            if time.monotonic() < self._until:
                return
            judge.kill()
            judge.wait()
        self._judge = self._case = None
        self._guarded(lambda: self._taken(code, folder))

    def _taken(self, code: int | None, folder: Path) -> None:
        if code == EXIT_OK:
            self.counts.right += 1
            shutil.rmtree(folder)
            return
        kept = self.folder / folder.name.replace(PENDING, WRONG if code == EXIT_FAILURE else "unjudged")
        shutil.rmtree(kept, ignore_errors=True)
        folder.rename(kept)
        said = (kept / "verdict.txt").read_text(encoding="utf-8", errors="replace").strip()
        if code == EXIT_FAILURE:
            self.counts.wrong += 1
            log.error("%s; pabench replay %s", said, kept)
        else:
            self.counts.unjudged += 1
            log.warning("no verdict within %g s or exit code %s: %s", self.deadline_s, code, said)


def judged(
    kernel: Callable[..., Any],
    definition: str | Path,
    *,
    every: int = 1000,
    folder: str | Path,
    deadline_s: float = 600.0,
) -> Judged:
    """Wrap a kernel so that one call in ``every``, the first included, is judged.

    Args:
        kernel: called with the inputs of the definition, returns or fills its outputs.
        definition: file of a Definition of paged attention.
        every: of so many calls one is judged; a call that is due while another is judged is not.
        folder: where recordings lie, and calls that were wrong stay.
        deadline_s: seconds that a judge may take.

    Raises:
        UsageError: the definition breaks a rule, or an argument does.
        Unsupported: it is of something else.
    """
    count = whole_number("every", every, low=1)
    attention = paged_attention(read_definition(Path(definition)))
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidCase("folder", str(folder), f"cannot be made: {reason(error)}") from None
    return Judged(kernel=kernel, attention=attention, every=count, folder=place, deadline_s=deadline_s)


def _capturing() -> bool:
    """Whether a CUDA graph is captured, during which nothing can be copied to the host."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _host(array: Any) -> Any:
    """A copy on the host, in storage form."""
    if hasattr(array, "detach"):
        from pabench.subjects.backends.torch_tensors import to_numpy

        return to_numpy(array)
    return np.array(array.get() if hasattr(array, "get") else array)
