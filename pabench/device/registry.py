"""Opens a device by name."""

from __future__ import annotations

from pathlib import Path

from pabench.device.base import Device
from pabench.errors import EnvironmentRefused, UnknownName, UsageError

DEVICES = ("cuda", "emulated")


def open_device(name: str, *, seed: int = 0, kernels: Path | None = None, checked: bool = False) -> Device:
    """Return a device.

    Args:
        name: ``cuda``, ``emulated``, or ``auto`` for cuda where there is one and emulated elsewhere.
        seed: schedule of the emulated device.
        kernels: a folder to use in place of the project's ``kernels_cuda``.
        checked: look at every access; with ``auto`` this chooses the emulated device.

    Raises:
        UnknownName: no such device.
        UsageError: ``kernels`` is not a kernel folder, or ``checked`` is asked of a GPU.
        EnvironmentRefused: the device cannot work here.
    """
    if name not in (*DEVICES, "auto"):
        raise UnknownName("device", name, (*DEVICES, "auto"))
    if kernels is not None and not (kernels / "pab").is_dir():
        raise UsageError(
            f"kernels = {str(kernels)!r}: must be a folder like kernels_cuda, with a folder pab in it"
        )
    if checked:
        if name == "cuda":
            raise UsageError(
                "device = 'cuda': kernels are checked on the emulated device only",
                hint="on a GPU, run compute-sanitizer",
            )
        from pabench.device.checked import CheckedDevice

        return CheckedDevice(seed=seed, kernels=kernels)
    from pabench.device.cuda import CudaDevice, why_no_cuda

    if name == "cuda" or (name == "auto" and why_no_cuda() is None):
        return CudaDevice(kernels=kernels)
    from pabench.device.emulated import EmulatedDevice

    try:
        return EmulatedDevice(seed=seed, kernels=kernels)
    except EnvironmentRefused as error:
        if name == "auto":
            raise EnvironmentRefused(f"neither GPU nor compiler: {error}", hint=error.hint) from None
        raise
