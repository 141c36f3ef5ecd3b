# SPDX-License-Identifier: Apache-2.0
"""Backends that stand for other projects' packages: one that is wrong where rows see no key, and others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.problem import Tensors
from pabench.subjects.backends.base import AttentionOutput, Capabilities
from pabench.subjects.backends.torch_sdpa import TorchSdpaBackend
from pabench.subjects.peers.named import NamedSubject
from pabench.subjects.peers.package import ThirdPartyPackage


class Madeup(TorchSdpaBackend):
    """Right but for rows before the first key, whose output is NaN."""

    name = "madeup"
    mode = "interpreted"
    capabilities = Capabilities(
        dtypes=frozenset({"float32"}),
        max_head_dim=16,
        operations=frozenset({"decode", "speculative", "prefill"}),
    )

    cured = False

    def plan(self, tensors: Tensors) -> Any:
        return super().plan(tensors), tensors

    def run(self, plan: Any) -> None:
        super().run(plan[0])

    def fetch(self, plan: Any) -> AttentionOutput:
        output = super().fetch(plan[0])
        batch = plan[1].case.batch
        assert output.lse is not None
        for row in np.flatnonzero(np.isneginf(output.lse).all(axis=1)):
            if batch.kv_lens[batch.sequence_of_row(int(row))] and not self.cured:
                output.out[row] = np.nan
        return output


class Old(Madeup):
    """Of a package that is too old: never made."""


class Absent(Madeup):
    """Of a package that is not there: never made."""


class Gpu(Madeup):
    """Of a package that needs a GPU: never made."""


class Cured(Madeup):
    """As a later release would be."""

    cured = True


class Broken:
    """Fails while it is made."""

    def __init__(self, device: Device) -> None:
        raise OSError("the vendor's library\nis missing")


def peer(package: str = "madeup", version: str = "1.2") -> ThirdPartyPackage:
    return ThirdPartyPackage(package=package, version=version, modules=(package,))


def adapter(name: str, *, package: str = "madeup", version: str = "1.2", gpu: bool = False) -> NamedSubject:
    place = f"tests.support.peer_backends:{name}"
    return NamedSubject(about=name, place=place, peers=(peer(package, version),), needs_gpu=gpu)


def install(folder: Path, package: str, version: str, *, distribution: str = "") -> None:
    """Put an empty package into ``folder``, as pip would."""
    title = distribution or package
    (folder / package).mkdir()
    (folder / package / "__init__.py").touch()
    info = folder / f"{title.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {title}\nVersion: {version}\n")
