# SPDX-License-Identifier: Apache-2.0
"""Where Triton kernels run here: on a GPU, compiled on a device that runs PTX, else in Triton's interpreter.

The device decides: ``cuda`` is mode ``native``, ``ptx:...`` is mode ``ptx`` (see ``triton_driver``), any
other is mode ``interpreted``.

The interpreter runs a kernel's Python on numpy arrays, one program of the grid after another. Whether a
kernel is interpreted is settled when it is decorated, so ``TRITON_INTERPRET`` is set before Triton is
imported, for both modes that compile to 0.

What the interpreter of Triton 3.9 cannot: it keeps bfloat16 as its bits and multiplies those as whole
numbers, cuts instead of rounding when float32 becomes bfloat16, loses the carry when a number is rounded to
e4m3, and reads the NaN of e4m3 as 480. So kernels are judged interpreted on float32 and float16, caches of
e4m3 included and the writing of them not. What a GPU does to float32 (products of matrices in TF32 unless a
kernel asks for more) no ``NumericsProfile`` says, so compiled kernels are judged on 16-bit types. Triton
compiles conversions of e4m3 for sm_89 and later alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

from pabench.device.base import Device, device_kind
from pabench.errors import EnvironmentRefused, Unsupported
from pabench.problem.case import Case
from pabench.subjects.backends.adapters.triton_peers import TRITON
from pabench.subjects.peers.package import ThirdPartyPackage

INTERPRET = "TRITON_INTERPRET"
IN_TREE = "TRITON_BACKENDS_IN_TREE"
"""Lets Triton find its own backends by their folders: the package may lie where entry points are not read."""
FUSION = "TRITON_DEFAULT_FP_FUSION"
"""Triton 3.9 fuses unless told, and warns that this will change."""
E4M3_FROM = (8, 9)
"""The first compute capability for which Triton compiles e4m3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonHost:
    """Where tensors live and how kernels run there.

    Attributes:
        where: torch's device.
        mode: ``native``, ``ptx`` or ``interpreted``.
        capability: compute capability that kernels are compiled for, None where they are interpreted.
        device: that runs PTX, in mode ``ptx``.
    """

    where: torch.device
    mode: str
    capability: tuple[int, int] | None = None
    device: Device | None = None

    @property
    def compiled(self) -> bool:
        """Whether kernels run as Triton compiles them."""
        return self.capability is not None

    @property
    def dtypes(self) -> frozenset[str]:
        """Storage types that kernels with matrix products in default precision can be judged on."""
        if self.mode == "interpreted":
            return frozenset({"float32", "float16"})
        return frozenset({"float16", "bfloat16"})

    @contextmanager
    def launching(self) -> Iterator[None]:
        """Around a launch: numpy, which interprets, is as silent about NaN and infinity as a GPU is."""
        with np.errstate(all="ignore"), self._believing():
            yield

    def load(self, peer: ThirdPartyPackage) -> Mapping[str, ModuleType]:
        """Import what is run of a package, and answer what it asks of the GPU; see ``ThirdPartyPackage``."""
        with self._believing():
            return peer.load()

    def why_not(self, case: Any) -> str | None:
        """Return why Triton compiles no kernel for ``case`` on this architecture, or None."""
        if self.capability is None or self.capability >= E4M3_FROM or case.problem.kv_dtype != "e4m3":
            return None
        return "no e4m3 on sm_{}{}: Triton compiles it for sm_89 and later".format(*self.capability)

    def _believing(self) -> AbstractContextManager[None]:
        if self.device is None:
            return nullcontext()
        from pabench.subjects.backends.adapters.triton_driver import DRIVER

        return DRIVER.on(self.device)

    def synchronize(self) -> None:
        """Wait for what was launched."""
        if self.where.type == "cuda":
            torch.cuda.synchronize(self.where)


def triton_host(name: str, device: Device) -> TritonHost:
    """Return where backend ``name`` runs Triton kernels for ``device``, with Triton imported for it.

    Raises:
        EnvironmentRefused: the device is ``cuda`` and torch finds none.
        Unsupported: Triton is absent, too old, fails to import, or was imported for the other mode before.
    """
    native, compiled = device.name == "cuda", device_kind(device.name) in ("cuda", "ptx")
    if native and not torch.cuda.is_available():
        raise EnvironmentRefused(
            f"backend {name!r} on device 'cuda': PyTorch {torch.__version__} finds no CUDA device",
            hint="install a CUDA build of PyTorch",
        )
    # Triton reads it whenever a kernel is decorated, so it stays
    os.environ[INTERPRET] = "0" if compiled else "1"
    os.environ.setdefault(IN_TREE, "1")
    os.environ.setdefault(FUSION, "1")
    language = TRITON.load()["triton.language"]
    # Triton's own library functions are kernels too, decorated when it was imported
    if (type(language.sum).__name__ == "InterpretedFunction") == compiled:
        mode = "compiling" if compiled else "interpreting"
        raise Unsupported(
            f"{name}: triton was imported before with {INTERPRET}={int(compiled)}, so no {mode} here"
        )
    if native:
        where = torch.device("cuda", torch.cuda.current_device())
        return TritonHost(where=where, mode="native", capability=torch.cuda.get_device_capability(where))
    if compiled:
        from pabench.subjects.backends.adapters.triton_driver import capability_of, install

        install()
        return TritonHost(
            where=torch.device("cpu"), mode="ptx", capability=capability_of(device), device=device
        )
    return TritonHost(where=torch.device("cpu"), mode="interpreted")


MAX_STEPS = 20
"""Programs and tiles that one launch may have when it is interpreted; each takes 10 to 20 ms."""


def why_not_interpreted(case: Case, *, heads: int, rows: int, tile: int, splits: int = 1) -> str | None:
    """Return why a launch is too much for the interpreter, or None.

    Args:
        case: what is asked.
        heads: programs for each block of query rows.
        rows: query rows of a block.
        tile: keys that a program takes at once.
        splits: programs that share the keys of a block.
    """
    lens = zip(case.batch.query_lens, case.batch.kv_lens, strict=True)
    steps = heads * sum(-(-q_len // rows) * (splits - (-kv_len // tile)) for q_len, kv_len in lens)
    return f"interpreted, at most {MAX_STEPS} steps a launch: has {steps}" if steps > MAX_STEPS else None


MAX_TILE = 2**20
"""Elements of the largest block that Triton takes."""


def why_not_grouped(case: Case) -> str | None:
    """Return why a program cannot hold all query heads of a KV head, padded to powers of two, or None."""
    heads, head_dim = (
        1 << (size - 1).bit_length() for size in (case.problem.group_size, case.problem.head_dim)
    )
    elements = max(16, heads) * max(32, head_dim)
    return f"no tile of {elements} elements: at most {MAX_TILE}" if elements > MAX_TILE else None
