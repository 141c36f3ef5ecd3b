# SPDX-License-Identifier: Apache-2.0
"""Clocks, power and temperature of a GPU, asked of nvidia-smi with a deadline.  Nothing is ever set."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import asdict, dataclass

DEADLINE_S = 5.0
FIELDS = {
    "name": "name",
    "driver": "driver_version",
    "sm_mhz": "clocks.sm",
    "max_sm_mhz": "clocks.max.sm",
    "memory_mhz": "clocks.mem",
    "power_w": "power.draw",
    "power_limit_w": "power.limit",
    "temperature_c": "temperature.gpu",
    "state": "pstate",
}
"""Our name and nvidia-smi's."""
TEXTS = ("name", "driver", "state")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """One look at a GPU; what it does not tell is None.

    Attributes:
        name, driver, state: texts; ``state`` is the performance state, P0 the fastest.
        sm_mhz, max_sm_mhz, memory_mhz: clocks now and the highest.
        power_w, power_limit_w: watts.
        temperature_c: degrees Celsius.
    """

    name: str | None = None
    driver: str | None = None
    sm_mhz: float | None = None
    max_sm_mhz: float | None = None
    memory_mhz: float | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    state: str | None = None

    def moving(self) -> dict[str, float | str | None]:
        """Return what changes from moment to moment."""
        return {key: value for key, value in asdict(self).items() if key in MOVING}


MOVING = ("sm_mhz", "memory_mhz", "power_w", "temperature_c", "state")


class Smi:
    """Asks nvidia-smi about one GPU; after the first failure it is not asked again.

    Args:
        gpu: number, UUID or PCI address; None for the first.
        program: name or path.
        deadline_s: seconds an answer may take.

    Attributes:
        problem: why there is no answer, once there was none.
    """

    def __init__(
        self, gpu: str | None = None, *, program: str = "nvidia-smi", deadline_s: float = DEADLINE_S
    ) -> None:
        self._gpu, self._program, self._deadline_s = gpu, program, deadline_s
        self.problem: str | None = None

    def read(self) -> GpuState | None:
        """Return the state now, or None where nvidia-smi does not tell."""
        if self.problem is not None:
            return None
        path = shutil.which(self._program)
        if path is None:
            self.problem = f"{self._program} is not installed"
            return None
        chosen = [] if self._gpu is None else ["-i", self._gpu]
        command = [path, *chosen, f"--query-gpu={','.join(FIELDS.values())}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._deadline_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            self.problem = f"{self._program} did not answer within {self._deadline_s:g} s"
            return None
        except OSError as error:
            self.problem = f"{self._program} does not start: {error.strerror}"
            return None
        output = done.stdout.decode("utf-8", "replace")
        state = parse_state(output) if done.returncode == 0 else None
        if state is None:
            said = (output or done.stderr.decode("utf-8", "replace")).strip().splitlines()
            self.problem = f"{self._program}: {said[0] if said else f'exit code {done.returncode}'}"
        return state


def parse_state(output: str) -> GpuState | None:
    """Return the state that the first line of nvidia-smi's table gives, None when it is no such table."""
    lines = output.strip().splitlines()
    parts = [part.strip() for part in lines[0].split(",")] if lines else []
    if len(parts) != len(FIELDS):
        return None
    values: dict[str, float | str | None] = {}
    for name, text in zip(FIELDS, parts, strict=True):
        if text.startswith("[") or text in ("", "N/A"):
            values[name] = None
        elif name in TEXTS:
            values[name] = text
        else:
            values[name] = _figure(text)
    return GpuState(**values)  # type: ignore[arg-type]


def _figure(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
