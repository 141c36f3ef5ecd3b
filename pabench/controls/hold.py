# SPDX-License-Identifier: Apache-2.0
"""Asks the checker what it must know before it is believed: controls and look-alikes, in a second or two."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pabench.controls.model import RIGHT, Control
from pabench.controls.table import TABLE, controls_dir, load_controls
from pabench.controls.verdict import Verdict, judge
from pabench.device.base import Device
from pabench.device.cache import cached_text, content_key
from pabench.device.checked import CheckedDevice
from pabench.device.headers import emulator_texts, header_texts, include_dirs
from pabench.device.ptx.architectures import is_ptx, read_name
from pabench.device.ptx.device import CheckedPtxDevice
from pabench.device.registry import DeviceRequest
from pabench.device.symbols import symbolizer
from pabench.errors import EnvironmentRefused

STEP_BUDGET = 300_000
"""Steps of one block of a control: the longest correct look-alike takes a third of them."""
POLL_SECONDS = 5
QUICK_SEEDS = (0, 1, 2)

_held: set[str] = set()


class _DoNotHold(Exception):
    """Keeps a result that must not be remembered out of the cache."""


def control_device(
    name: str = "emulated", *, kernels: Path | None = None, workers: int | None = None
) -> CheckedDevice:
    """Return the checked device ``name`` with all checks on; it ends loops of controls soon."""
    kind = partial(CheckedPtxDevice, read_name(name)) if is_ptx(name) else CheckedDevice
    return kind(kernels=kernels, workers=workers, step_budget=STEP_BUDGET, poll_seconds=POLL_SECONDS)


def controls_hold(device: CheckedDevice) -> list[str]:
    """Return what the checker of ``device`` gets wrong about the quick controls, one line each.

    One control and one look-alike of each class that ``device`` checks run under three schedules, on a device
    of their own with the same kernels folder.  That they hold is remembered in the cache folder by the hash
    of all that the answer depends on; that they do not is not.

    Raises:
        CompileError: the controls do not compile against the folder's headers.
    """
    folder = controls_dir()
    quick = [c for c in load_controls(folder) if c.quick and c.expect in (*device.checks, RIGHT)]
    key = _key(device, folder, quick)
    if key in _held:
        return []
    misses: list[str] = []

    def make() -> str:
        # whoever has no symbolizer is told so by each finding; the findings can be believed all the same
        places = symbolizer() is not None
        own = control_device(device.name, kernels=device.kernels)
        verdicts = [judge(c, folder, own, QUICK_SEEDS, places=places) for c in quick]
        misses.extend(in_words(verdict) for verdict in verdicts if verdict.problem)
        if misses:
            raise _DoNotHold
        return "".join(f"{control.id}\n" for control in quick)

    try:
        cached_text(f"controls-{key}.txt", make)
    except _DoNotHold:
        return misses
    _held.add(key)
    return []


def open_verified(request: DeviceRequest, *, must_run: bool = True) -> Device:
    """Open a device; a checked one only when it finds what it must find and nothing else.

    Args:
        request: what to open.
        must_run: see ``open_device``.

    Raises:
        EnvironmentRefused: the controls do not hold here.
        PabenchError: whatever ``DeviceRequest.open`` raises.
    """
    device = request.open(must_run=must_run)
    if isinstance(device, CheckedDevice) and (misses := controls_hold(device)):
        more = f" (and {len(misses) - 1} more)" if len(misses) > 1 else ""
        raise EnvironmentRefused(
            f"checked-device self-test failed: {misses[0]}{more}",
            hint="pabench selftest --controls",
        )
    return device


def in_words(verdict: Verdict) -> str:
    """Return one line on a verdict that is wrong."""
    kind = f"{verdict.control.expect} control" if verdict.control.faulty else "correct look-alike"
    return f"{kind} {verdict.control.id} ({verdict.control.about}): {verdict.problem}"


def _key(device: CheckedDevice, folder: Path, quick: list[Control]) -> str:
    files = sorted({control.file for control in quick})
    texts = [(folder / name).read_bytes() for name in (TABLE, *files)]
    headers = header_texts(*include_dirs(device.kernels))
    checker = emulator_texts(device.emulator)
    return content_key([device.description, *device.checks, *headers, *checker, *texts])
