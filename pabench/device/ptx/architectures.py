# SPDX-License-Identifier: Apache-2.0
"""Names of devices that run PTX, the architectures behind them, and what a block can have there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pabench.errors import UnknownName

KIND = "ptx"
DEFAULT = "sm_80"
KIB = 1024
SHARED = {
    **dict.fromkeys(("sm_80", "sm_87"), 163 * KIB),
    **dict.fromkeys(("sm_86", "sm_89", "sm_120", "sm_120a"), 99 * KIB),
    **dict.fromkeys(("sm_90", "sm_90a", "sm_100", "sm_100a"), 227 * KIB),
}
"""Shared memory that one block can have, by architecture (CUDA programming guide, compute capabilities)."""
LOCKSTEP = "lockstep"


@dataclass(frozen=True, slots=True, kw_only=True)
class PtxName:
    """What a name such as ``ptx:sm_90a`` or ``ptx:sm_80:lockstep`` asks for.

    Attributes:
        architecture: what kernels are compiled for.
        lockstep: the lanes of a warp go on in the order of their instructions.
    """

    architecture: str = DEFAULT
    lockstep: bool = False

    @property
    def name(self) -> str:
        """The name in full."""
        return f"{KIND}:{self.architecture}" + (f":{LOCKSTEP}" if self.lockstep else "")


def is_ptx(name: str) -> bool:
    """Whether a device's name is one of a PTX device."""
    return name.split(":")[0] == KIND


def read_name(name: str) -> PtxName:
    """Read the name of a PTX device: ``ptx[:ARCHITECTURE][:lockstep]``.

    Raises:
        UnknownName: no such architecture or schedule.
    """
    words = name.split(":")[1:]
    lockstep = bool(words) and words[-1] == LOCKSTEP
    architecture = words[0] if words and not (lockstep and len(words) == 1) else DEFAULT
    if architecture not in SHARED or len(words) > 1 + lockstep:
        known = [f"{KIND}:{one}" for one in sorted(SHARED, key=_number)]
        raise UnknownName("device", name, (*known, f"{KIND}:{DEFAULT}:{LOCKSTEP}"))
    return PtxName(architecture=architecture, lockstep=lockstep)


def runs(target: str, architecture: str) -> bool:
    """Whether PTX for ``target`` runs on ``architecture``: one as old, or, with a letter, the same chip."""
    if target[-1].isalpha():
        return _number(target)[0] == _number(architecture)[0]
    return _number(target)[0] <= _number(architecture)[0]


def _number(architecture: str) -> tuple[int, str]:
    return int(re.sub(r"\D", "", architecture)), architecture
