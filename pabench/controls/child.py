# SPDX-License-Identifier: Apache-2.0
"""Runs one control on the GPU in a process of its own, where it may crash, hang, or be watched.

``python -m pabench.controls.child ID FOLDER`` prints one line of JSON after ``MARKER``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pabench.controls.launch import kernel_source, prepare, wrong_output
from pabench.controls.table import load_controls
from pabench.device.cuda import CudaDevice
from pabench.errors import PabenchError, UnknownName

MARKER = "pabench-control: "


class PlainCudaDevice(CudaDevice):
    """A CUDA device whose memory a tool can follow: one allocation each, unwritten until written."""

    def __init__(self) -> None:
        super().__init__(line_info=True)
        import cupy

        # out of one pool, the end of an allocation would be the middle of the pool's
        cupy.cuda.set_allocator(None)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Return new GPU memory that nothing has written."""
        import cupy

        return cupy.empty(shape, dtype)


def run(name: str, folder: Path) -> dict[str, Any]:
    """Run the control ``name``; return ``wrong`` (a look-alike's wrong output, or None) or ``error``."""
    try:
        controls = {control.id: control for control in load_controls(folder)}
        if name not in controls:
            raise UnknownName("control", name, controls)
        control = controls[name]
        device = PlainCudaDevice()
        module = device.load(kernel_source(control, folder, device))
        prepared = prepare(control, device)
        module.launch(prepared.launch)
        device.synchronize()
        return {"wrong": wrong_output(control, device, prepared)}
    except PabenchError as error:
        return {"error": str(error)}


def main(arguments: list[str]) -> int:
    """Run the control and folder named by ``arguments``."""
    name, folder = arguments
    sys.stdout.write(f"{MARKER}{json.dumps(run(name, Path(folder)))}\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
