# SPDX-License-Identifier: Apache-2.0
"""What is known of a subject that has a name, before any of its code is imported."""

from __future__ import annotations

from dataclasses import dataclass

from pabench.device.base import device_kind
from pabench.errors import Unsupported
from pabench.subjects.peers.package import ThirdPartyPackage


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSubject:
    """A backend or allocator that can be asked for by name.

    Attributes:
        about: one line for lists.
        place: ``module:attribute`` of its class.
        peers: the packages of other projects that it runs, the one it is named after first; none for our own.
        needs_gpu: its kernels have no interpreter; without a GPU every case is unsupported.
        on_ptx: ``module:attribute`` of the class that runs its compiled kernels on devices that run PTX.
        compilers: what that class compiles them with.
        architecture: the one that alone runs it; empty for any.
    """

    about: str
    place: str
    peers: tuple[ThirdPartyPackage, ...] = ()
    needs_gpu: bool = False
    on_ptx: str = ""
    compilers: tuple[ThirdPartyPackage, ...] = ()
    architecture: str = ""

    def place_on(self, device: str) -> str:
        """Return the place of the class for a device by name."""
        return self.on_ptx if self.on_ptx and device_kind(device) == "ptx" else self.place

    def check(self, name: str, device: str) -> None:
        """Look whether it can be had on a device, without importing anything.

        Raises:
            Unsupported: it needs a GPU, or one of its packages is absent or too old.
        """
        compiled = self.place_on(device) != self.place
        if self.needs_gpu and device != "cuda" and not compiled:
            other = ", or --device ptx:sm_80 for its compiled code" if self.on_ptx else ""
            raise Unsupported(
                f"{name} needs a GPU: its kernels have no interpreter; add --device cuda{other}"
            )
        for peer in (*self.peers, *(self.compilers if compiled else ())):
            peer.find()

    @property
    def package(self) -> str | None:
        """Name of the package that it is an adapter of, None for our own."""
        return self.peers[0].title if self.peers else None

    @property
    def install(self) -> str:
        """The commands that install what it runs."""
        return " && ".join(dict.fromkeys(peer.install for peer in self.peers))

    def load(self) -> None:
        """Import what it runs; raises ``Unsupported`` where a package is absent, too old or broken."""
        for peer in self.peers:
            peer.load()

    def version(self) -> str | None:
        """Return the version of the package that is run, None for our own; raises ``Unsupported``."""
        return self.peers[0].find().version if self.peers else None
