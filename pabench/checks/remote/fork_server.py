# SPDX-License-Identifier: Apache-2.0
"""Fork servers in which subjects are started: dear to make, so that they outlive a bench."""

from __future__ import annotations

from pabench.checks.remote.subject import ENTRY
from pabench.run.workers import ForkServer

_fork_servers: dict[tuple[tuple[str, ...], int], ForkServer] = {}


def shared_fork_server(path: tuple[str, ...] = (), place: int = 0) -> ForkServer:
    """Return the fork server of this process for subjects that look for modules in ``path`` first.

    Args:
        path: folders; those of a planted fault are gone with it, so one such fork server is kept at a time.
        place: a fork server serves one subject at a time; subjects that live side by side need several.
    """
    key = (path, place)
    if key not in _fork_servers:
        for other in [*_fork_servers]:
            if path and other[0] and other[0] != path:
                _fork_servers.pop(other).close()
        _fork_servers[key] = ForkServer(ENTRY, path=path)
    return _fork_servers[key]
