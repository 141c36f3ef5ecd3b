"""Replays a saved case, in a worker process or in this one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pabench.activities.conformance.messages import ENTRY
from pabench.errors import EnvironmentRefused
from pabench.run.channel import raise_refusal
from pabench.run.workers import Nursery, WorkerEnded


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """What to replay.

    Attributes:
        folder: the case directory.
        subject: another subject than the saved one, or None.
        device: another device than the saved one, or None.
        kernels, checked, poll_seconds: see ``open_device``.
    """

    folder: str
    subject: str | None = None
    device: str | None = None
    kernels: str | None = None
    checked: bool = False
    poll_seconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """The verdict: what was judged, where, and what was found."""

    check: str
    subject: str
    device: str
    passed: bool
    text: str


def replay_here(
    request: ReplayRequest, *, witness: Any = None, tell: Callable[..., None] = lambda **facts: None
) -> Replayed:
    """Replay in this process.

    Args:
        request: what to replay.
        witness: hears of the case, see ``witness.py``.
        tell: called with ``check, subject, device`` when they are known.

    Raises:
        PabenchError: there is no such case, or it cannot run here.
    """
    from pabench.checks.failures import load_case, rerun
    from pabench.controls.hold import open_believed
    from pabench.device.registry import DeviceRequest

    saved = load_case(Path(request.folder))
    wanted = DeviceRequest(
        # the saved device is what the case ran on, not a wish
        name=request.device or ("emulated" if request.checked else saved.device),
        kernels=request.kernels,
        checked=request.checked,
        poll_seconds=request.poll_seconds,
    )
    device = open_believed(wanted)
    facts = {"check": saved.check, "subject": request.subject or saved.subject, "device": device.name}
    tell(**facts)
    outcome = rerun(saved, device, subject=request.subject, witness=witness)
    return Replayed(**facts, passed=outcome.passed, text=outcome.text)


def replay_isolated(request: ReplayRequest, *, deadline_s: float, entry: str = ENTRY) -> Replayed:
    """Replay in a worker process; its end while it judges is the verdict.

    Raises:
        PabenchError: there is no such case, or it cannot run here.
        EnvironmentRefused: the worker ended before it had the case and its subject.
    """
    facts, judging = {}, False
    with Nursery(entry) as nursery:
        worker = nursery.start()
        worker.send({"task": "replay", "request": asdict(request)})
        try:
            while True:
                message = worker.receive(deadline_s)
                raise_refusal(message)
                event = message.pop("event")
                if event == "facts":
                    facts = message
                elif event == "replayed":
                    return Replayed(**message)
                elif event == "lost":
                    return Replayed(**facts, passed=False, text=str(message["text"]))
                judging = judging or event == "case"
        except WorkerEnded as ended:
            if not judging:
                what = repr(facts["subject"]) if facts else "the case"
                raise EnvironmentRefused(f"{what} cannot be loaded: {ended.ending.text}") from None
            return Replayed(**facts, passed=False, text=ended.ending.text)
