"""What is known of an adapter before anything of another project is imported."""

from __future__ import annotations

from dataclasses import dataclass

from pabench.errors import Unsupported
from pabench.subjects.peers.peer import Peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A backend that runs kernels of another project.

    Attributes:
        about: one line for lists.
        place: ``module:attribute`` of its class.
        peers: the packages it runs, the one it is named after first.
        needs_gpu: its kernels have no interpreter; without a GPU every case is unsupported.
    """

    about: str
    place: str
    peers: tuple[Peer, ...]
    needs_gpu: bool = False

    def check(self, name: str, device: str) -> None:
        """Look whether it can be had on a device, without importing anything.

        Raises:
            Unsupported: it needs a GPU, or one of its packages is absent or too old.
        """
        if self.needs_gpu and device != "cuda":
            raise Unsupported(f"{name} needs a GPU: its kernels have no interpreter; add --device cuda")
        for peer in self.peers:
            peer.find()

    @property
    def install(self) -> str:
        """The commands that install what it runs."""
        return " && ".join(dict.fromkeys(peer.install for peer in self.peers))
