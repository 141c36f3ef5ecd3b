# SPDX-License-Identifier: Apache-2.0
"""Replays a saved case."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pabench.checks.case_files import SavedCase
from pabench.checks.failures import judge_again, load_case, rerun, subject_of
from pabench.checks.outcome import Outcome, raised
from pabench.checks.recordings import keep_recording, read_arrays
from pabench.checks.remote.errors import SubjectEnded
from pabench.checks.remote.subject import RemoteSubject
from pabench.controls.hold import open_verified
from pabench.device.base import Device
from pabench.device.registry import DeviceRequest
from pabench.errors import UsageError
from pabench.judge.verdict import judge
from pabench.problem.case import Case
from pabench.problem.tensors import build_tensors
from pabench.run.deadlines import deadline_on, poll_seconds
from pabench.subjects.backends.solution_call import PROFILE
from pabench.subjects.reference import BACKEND
from pabench.text import shown_path


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRequest:
    """What to replay.

    Attributes:
        folder: the case directory.
        subject: another subject than the saved one, or None.
        device: another device than the saved one, or None.
        kernels, checked: see ``open_device``.
    """

    folder: str
    subject: str | None = None
    device: str | None = None
    kernels: str | None = None
    checked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """The verdict: what was judged, where, and what was found.

    Attributes:
        check: id of the check.
        subject: what was judged.
        device: name of the device it ran on.
        passed: the property holds.
        text: what was found, one line.
        traceback: of a subject that raised, as Python prints it.
    """

    check: str
    subject: str
    device: str
    passed: bool
    text: str
    traceback: str | None = None


def replay(request: ReplayRequest, *, deadline_s: float | None = None, in_process: bool = False) -> Replayed:
    """Judge a saved case again; the subject runs in a process of its own, whose end is a verdict too.

    Args:
        request: what to replay.
        deadline_s: seconds that one call may take; None for what is usual on the device.
        in_process: run the subject in this process.

    Raises:
        PabenchError: there is no such case, or it cannot run here.
    """
    saved = load_case(Path(request.folder))
    keep_recording(Path(request.folder), saved.case)
    # the saved device is what the case ran on, not a wish
    on = request.device or ("emulated" if request.checked else saved.device)
    if deadline_s is None:
        deadline_s = deadline_on(on, checked=request.checked)
    wanted = DeviceRequest(
        name=on,
        kernels=request.kernels,
        checked=request.checked,
        poll_seconds=poll_seconds(deadline_s),
    )
    kind, name = subject_of(saved, request.subject)
    if in_process:
        device = open_verified(wanted)
        outcome = rerun(saved, device, subject=name)
        return _replayed(saved, name, device.name, outcome)
    if wanted.checked:
        open_verified(wanted)
    with RemoteSubject(None, wanted, kind, name, deadline_s=deadline_s) as remote:
        remote.begin_case()
        try:
            subject = remote.backend if kind == BACKEND else remote.new_allocator
            outcome = judge_again(saved, name, subject, cast(Device, remote.device))
        except SubjectEnded as ended:
            outcome = raised(ended)
        return _replayed(saved, name, remote.facts.device_name, outcome)


def judge_outputs(folder: Path, file: Path) -> Replayed:
    """Judge outputs that a case was given elsewhere, by the roundings that are granted to a Solution.

    Args:
        folder: the case directory, of attention.
        file: an .npz with ``out`` and, where there is one, ``lse``, in storage form; see ``judge``.

    Raises:
        UsageError: there is no such case or file, or it holds something else.
    """
    saved = load_case(folder)
    if not isinstance(saved.case, Case):
        raise UsageError(f"case {shown_path(folder)}: is of no attention, whose outputs alone are judged")
    keep_recording(folder, saved.case)
    arrays = read_arrays(file, "outputs", ("out",), ("lse",))
    verdict = judge(
        build_tensors(saved.case), arrays["out"], arrays.get("lse"), PROFILE, allow_missing_lse=True
    )
    return Replayed(
        check=saved.check, subject=saved.subject, device="", passed=verdict.passed, text=verdict.text
    )


def _replayed(saved: SavedCase, subject: str, device: str, outcome: Outcome) -> Replayed:
    return Replayed(
        check=saved.check,
        subject=subject,
        device=device,
        passed=outcome.passed,
        text=outcome.text,
        traceback=outcome.traceback,
    )
