# SPDX-License-Identifier: Apache-2.0
"""Which release of another project's package a subject is, told before anything of it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

from pabench.errors import Unsupported
from pabench.subjects.registry import known


def subject_facts(
    kind: str, names: Iterable[str], modes: Mapping[str, str | None] | None = None
) -> list[dict[str, str | None]]:
    """Return name, kind, package, version and mode of each subject, as ``run.json`` and its journal say them.

    Version and package are None for our own subjects, for code of the user's, and where a package is absent.

    Args:
        kind: of the subjects.
        names: which.
        modes: how a subject runs, where there is more than one way.
    """
    found = []
    for name in dict.fromkeys(names):
        package = version = None
        if (subject := known(kind).get(name)) is not None:
            with contextlib.suppress(Unsupported):  # its items say what it lacks
                package, version = subject.package, subject.version()
        mode = (modes or {}).get(name)
        found.append({"name": name, "kind": kind, "package": package, "version": version, "mode": mode})
    return found
