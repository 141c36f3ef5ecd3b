# SPDX-License-Identifier: Apache-2.0
"""Opens a device by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pabench.device.base import Device
from pabench.device.ptx.architectures import is_ptx, read_name
from pabench.errors import EnvironmentRefused, UnknownName, UsageError

DEVICES = ("cuda", "emulated", "ptx:sm_80")
"""Names that messages list; of the last kind there are more, see ``ptx.architectures``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRequest:
    """A device to open, as options say it and as it goes to a worker process in JSON.

    Attributes:
        name, seed, kernels, checked, count, poll_seconds, flags: see ``open_device``; ``kernels`` as text.
    """

    name: str
    seed: int = 0
    kernels: str | None = None
    checked: bool = False
    count: bool = False
    poll_seconds: int | None = None
    flags: tuple[str, ...] = ()

    def open(self, *, must_run: bool = True) -> Device:
        """Open the device; ``must_run`` and what is raised are as for ``open_device``."""
        return open_device(
            self.name,
            seed=self.seed,
            kernels=None if self.kernels is None else Path(self.kernels),
            checked=self.checked,
            count=self.count,
            poll_seconds=self.poll_seconds,
            flags=self.flags,
            # said only where it differs
            **({} if must_run else {"must_run": False}),
        )

    def check(self) -> None:
        """Raise what is wrong with the request whatever the machine offers; cheap, opens nothing."""
        kernels = None if self.kernels is None else Path(self.kernels)
        check_device(self.name, kernels=kernels, checked=self.checked)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: the arguments of this class."""
        return asdict(self)


def check_device(name: str, *, kernels: Path | None = None, checked: bool = False) -> None:
    """Look at the arguments of ``open_device``.

    Raises:
        UnknownName: no such device.
        UsageError: ``kernels`` is not a kernel folder, or ``checked`` is asked of a GPU.
    """
    if is_ptx(name):
        read_name(name)
    elif name not in (*DEVICES, "auto"):
        raise UnknownName("device", name, (*DEVICES, "auto"))
    if kernels is not None:
        check_kernels(kernels)
    if checked and name == "cuda":
        raise UsageError(
            "device = 'cuda': kernels are checked on the emulated device only",
            hint="on a GPU, run compute-sanitizer",
        )


def check_kernels(kernels: Path) -> None:
    """Raise ``UsageError`` when ``kernels`` is not a folder with kernel files or headers of them."""
    try:
        fits = any(kernels.glob("*.cu")) or (kernels / "pab").is_dir()
    except (OSError, ValueError):  # a name too long, a folder that cannot be read
        fits = False
    if not fits:
        raise UsageError(
            f"kernels = {str(kernels)!r}: must be a folder like kernels_cuda, with kernel files (*.cu) or "
            "a folder pab in it"
        )


def open_device(
    name: str,
    *,
    seed: int = 0,
    kernels: Path | None = None,
    checked: bool = False,
    count: bool = False,
    poll_seconds: int | None = None,
    flags: Sequence[str] = (),
    must_run: bool = True,
) -> Device:
    """Return a device.

    Args:
        name: ``cuda``, ``emulated``, ``ptx:ARCHITECTURE``, or ``auto`` for cuda where there is one and
            emulated elsewhere.
        seed: schedule of a device on the host.
        kernels: a folder to use in place of the project's ``kernels_cuda``.
        checked: look at every access; with ``auto`` this chooses the emulated device.
        count: let a checked device count traffic as well.
        poll_seconds: spin-wait timeout of kernels on the emulated device; None for its own limit.
        flags: further ones for the compiler of the emulated device, when it is not checked.
        must_run: refuse a machine that can run no kernel; else whoever runs one calls ``require_kernels``.

    Raises:
        UnknownName: no such device.
        UsageError: ``kernels`` is not a kernel folder, or ``checked`` is asked of a GPU.
        EnvironmentRefused: the device cannot work here.
    """
    check_device(name, kernels=kernels, checked=checked)
    limits: dict[str, Any] = {} if poll_seconds is None else {"poll_seconds": poll_seconds}
    if is_ptx(name):
        from pabench.device.ptx.device import CheckedPtxDevice, PtxDevice

        asked = read_name(name)
        ptx: PtxDevice | CheckedPtxDevice = (
            CheckedPtxDevice(asked, seed=seed, kernels=kernels, count=count, **limits)
            if checked
            else PtxDevice(asked, seed=seed, kernels=kernels, flags=flags, **limits)
        )
        if must_run or checked:
            require_kernels(ptx, name)
        return ptx
    if checked:
        from pabench.device.checked import CheckedDevice

        checker = CheckedDevice(seed=seed, kernels=kernels, count=count, **limits)
        checker.ready()
        return checker
    from pabench.device.cuda import CudaDevice, why_no_cuda

    if name == "cuda" or (name == "auto" and why_no_cuda() is None):
        return CudaDevice(kernels=kernels)
    from pabench.device.emulated import EmulatedDevice

    device = EmulatedDevice(seed=seed, kernels=kernels, flags=flags, **limits)
    if must_run:
        require_kernels(device, name)
    return device


def require_kernels(device: Device, name: str) -> None:
    """Raise ``EnvironmentRefused`` when ``device``, opened as ``name``, can run no kernel."""
    try:
        device.ready()
    except EnvironmentRefused as error:
        if name == "auto":
            raise EnvironmentRefused(f"neither GPU nor emulated device: {error}", hint=error.hint) from None
        raise
