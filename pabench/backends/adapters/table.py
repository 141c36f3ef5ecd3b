"""The adapters by name: what they run, and what that needs.  Nothing of another project is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from pabench.peers.peer import Peer


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


ADAPTERS: dict[str, Adapter] = {}
