# SPDX-License-Identifier: Apache-2.0
"""The packages that adapters run: which version, where they are looked for, what is loaded of them."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from pabench.errors import Unsupported
from pabench.subjects.peers.stubs import found_in, stubs

PEERS_VARIABLE = "PABENCH_PEERS"
"""Environment variable: a folder that packages were installed to with ``pip install --no-deps --target``."""


TORCH_INSTALL = "pip install 'pabench[torch]'"

DEFAULT_FOLDER = Path(".peers")
"""Where ``make test-peers`` installs, in the working directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A package that is there."""

    folder: Path
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThirdPartyPackage:
    """A package of another project, and how its allocator is imported alone.

    Attributes:
        package: name of the top-level module, and of the distribution where ``distribution`` is empty.
        version: the one that the adapter is written and tested against; older ones are refused.
        modules: what the adapter uses.
        distribution: name under which it is installed, where that is another one.
        installed: it comes with the extra of its name and is imported as any other package.
        stays: imported whole and kept in the table of modules: it imports more of itself later.
        bare: see ``stubs``.
        replaced: makes the stubs, given the folder of the package.
        along: further distributions, with their versions, without which it is of no use.
        warm: called with the modules while the stubs are there: what the package imports when it is first
            used, it has to import now.
    """

    package: str
    version: str
    modules: tuple[str, ...]
    distribution: str = ""
    installed: bool = False
    stays: bool = False
    bare: tuple[str, ...] = ()
    replaced: Callable[[Path], Mapping[str, Mapping[str, Any]]] = lambda folder: {}
    along: tuple[str, ...] = ()
    warm: Callable[[Mapping[str, ModuleType]], None] = lambda modules: None

    @property
    def title(self) -> str:
        """Name of the distribution."""
        return self.distribution or self.package

    @property
    def install(self) -> str:
        """The command that installs the package to where it is looked for."""
        if self.installed:
            return f"pip install 'pabench[{self.title}]' '{self.title}>={self.version}'"
        folder = shlex.quote(os.environ.get(PEERS_VARIABLE) or str(DEFAULT_FOLDER))
        return " ".join(
            [f"pip install --no-deps --target {folder} {self.title}=={self.version}", *self.along]
        )

    def find(self) -> Found:
        """Look for the package in the folder of ``PABENCH_PEERS``, else ``.peers``, then on ``sys.path``.

        Raises:
            Unsupported: absent or too old.
        """
        given = os.environ.get(PEERS_VARIABLE)
        places = [] if self.installed else [Path(given) if given else DEFAULT_FOLDER]
        for place in [*places, *map(Path, sys.path)]:
            if not (place / self.package).is_dir():
                continue
            for distribution in importlib.metadata.distributions(name=self.title, path=[str(place)]):
                version = distribution.version
                if release(version) < release(self.version):
                    what = f"{self.title} {version} in {str(place)!r}"
                    raise Unsupported(f"{what}: must be {self.version} or newer; {self.install}")
                return Found(folder=place.resolve(), version=version)
        raise Unsupported(f"{self.title} is not installed: {self.install}")

    def load(self) -> Mapping[str, ModuleType]:
        """Return the modules by name; imported once for each folder.

        Raises:
            Unsupported: the package is absent, too old, or fails to import.
        """
        return _load(self, self.find())


@cache
def _load(peer: ThirdPartyPackage, found: Found) -> dict[str, ModuleType]:
    try:
        if peer.installed:
            return {name: importlib.import_module(name) for name in peer.modules}
        if peer.stays:
            with found_in(peer.package, found.folder):
                return {name: importlib.import_module(name) for name in peer.modules}
        with stubs(peer.package, found.folder, bare=peer.bare, replaced=peer.replaced(found.folder)):
            modules = {name: importlib.import_module(name) for name in peer.modules}
            peer.warm(modules)
            return modules
    except Exception as error:
        # whatever a strange version raises on its way, it is that version which cannot be used
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        what = f"{peer.title} {found.version} in {str(found.folder)!r}"
        install = TORCH_INSTALL if lacks_torch(error) else peer.install
        raise Unsupported(f"{what} cannot be imported: {said}; {install}") from None


def lacks_torch(error: BaseException) -> bool:
    """Whether an import failed because torch, which most adapters need beside their package, is absent."""
    return isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "torch"


def release(version: str) -> tuple[int, ...]:
    """Return the numbers a version starts with: ``0.33.0rc1`` gives ``(0, 33, 0)``."""
    start = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, start[0].split("."))) if start else ()
