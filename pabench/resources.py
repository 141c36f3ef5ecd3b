# SPDX-License-Identifier: Apache-2.0
"""Finds the folders that ship beside the code, in a wheel as well as in a checkout."""

from __future__ import annotations

from pathlib import Path

from pabench.errors import EnvironmentRefused, UnknownName

RESOURCES = ("kernels_cuda", "suites", "templates")


def resource_dir(name: str) -> Path:
    """Return the folder ``name`` (one of ``RESOURCES``).

    A wheel carries the folders under ``pabench/_bundled``; a checkout, an unpacked sdist and an editable
    install have them beside the package.

    Raises:
        UnknownName: ``name`` is not a resource.
        EnvironmentRefused: neither place holds the folder; the message names both.
    """
    if name not in RESOURCES:
        raise UnknownName("resource", name, RESOURCES)
    package = Path(__file__).resolve().parent
    candidates = (package / "_bundled" / name, package.parent / name)
    for path in candidates:
        if path.is_dir():
            return path
    tried = " and ".join(str(path) for path in candidates)
    raise EnvironmentRefused(f"resource folder {name!r} not found: tried {tried}", hint="reinstall pabench")
