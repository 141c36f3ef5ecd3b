"""Nurseries in which subjects are started: dear to make, so that they outlive a bench."""

from __future__ import annotations

from pabench.checks.remote.subject import ENTRY
from pabench.run.workers import Nursery

_nurseries: dict[tuple[tuple[str, ...], int], Nursery] = {}


def shared_nursery(path: tuple[str, ...] = (), place: int = 0) -> Nursery:
    """Return the nursery of this process for subjects that look for modules in ``path`` first.

    Args:
        path: folders; those of a planted fault are gone with it, so that one such nursery is kept at a time.
        place: a nursery serves one subject at a time; subjects that live side by side need several.
    """
    key = (path, place)
    if key not in _nurseries:
        for other in [*_nurseries]:
            if path and other[0] and other[0] != path:
                _nurseries.pop(other).close()
        _nurseries[key] = Nursery(ENTRY, path=path)
    return _nurseries[key]
