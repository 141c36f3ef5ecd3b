# SPDX-License-Identifier: Apache-2.0
"""Keeps the cache folder small: what was not used for long goes first, and what killed builds left."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

from pabench.errors import EnvironmentRefused

PREFIX = ".building-"
DEFAULT_BOUND = 2 * 2**30
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
SIZE = re.compile(r"([0-9]{1,12}) *([KMGT]?)(?:i?B)?", re.IGNORECASE)
OURS = re.compile(r"[^/]+-[0-9a-f]{32}\.(so|txt|log)")
"""Names that end in a content key: nothing else in the folder is touched, whosesoever it is."""
RECENT_S = 3600

_began = time.time()


def size_bound() -> int:
    """Return how many bytes the cache may have: ``$PABENCH_CACHE_SIZE``, else 2 GiB; 0 for no bound.

    Raises:
        EnvironmentRefused: the variable holds no size.
    """
    text = os.environ.get("PABENCH_CACHE_SIZE")
    if not text:
        return DEFAULT_BOUND
    found = SIZE.fullmatch(text.strip())
    if found is None:
        raise EnvironmentRefused(
            f"PABENCH_CACHE_SIZE = {text!r}: must be a size such as 500M or 2G, or 0 for no bound"
        )
    return int(found[1]) * UNITS[found[2].upper()]


def tidy(folder: Path) -> None:
    """Remove leftovers of killed builds and, while files are above the bound, the one unused for longest.

    What was used within the last hour or since this process began stays: this run, or another, may be about
    to load it or link with it.
    """
    bound, now = size_bound(), time.time()
    recent = min(_began, now - RECENT_S)
    kept: list[tuple[float, int, str]] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            leftover = entry.name.startswith(PREFIX)
            if not (leftover or OURS.fullmatch(entry.name)) or not entry.is_file(follow_symlinks=False):
                continue
            status = entry.stat(follow_symlinks=False)
            if not leftover:
                kept.append((status.st_mtime, status.st_size, entry.path))
            elif status.st_mtime < now - RECENT_S:
                _remove(entry.path)
    total = sum(size for _, size, _ in kept)
    for used, size, path in sorted(kept):
        if not bound or total <= bound or used >= recent:
            return
        # unless somebody has used it since
        if _last_used(path) == used:
            _remove(path)
        total -= size


def _last_used(path: str) -> float | None:
    try:
        return os.stat(path, follow_symlinks=False).st_mtime
    except OSError:
        return None


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
