# SPDX-License-Identifier: Apache-2.0
"""Our own subjects and the sources each is made of: a fault in a file is looked for in the right ones."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

from pabench.device.ptx.architectures import KIND as PTX
from pabench.resources import resource_dir
from pabench.selftest.mutants import PACKAGE
from pabench.subjects.reference import KINDS
from pabench.subjects.registry import known

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
SUBJECTS_ROOM = f"{PACKAGE.name}.subjects."


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A backend or allocator of this project.

    Attributes:
        name: as on the command line.
        kind: ``backend`` or ``allocator``.
        module: full name of the module that defines it.
        only_on: the device that alone runs it; empty for any.
    """

    name: str
    kind: str
    module: str
    only_on: str = ""

    def files(self) -> frozenset[str]:
        """Return what it is made of, as mutants name files.

        These are Python files relative to the package, and kernel files and headers relative to
        ``kernels_cuda``.
        """
        return _files(self.module)

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of its kernel files, in order."""
        return tuple(sorted(file for file in self.files() if file.endswith(".cu")))


def _own() -> tuple[Subject, ...]:
    """All of ours but the reference model, which is the judge's."""
    found = []
    for kind in KINDS:
        for name, subject in known(kind).items():
            module = subject.place.partition(":")[0]
            if not subject.peers and module.startswith(SUBJECTS_ROOM):
                only_on = f"{PTX}:{subject.architecture}" if subject.architecture else ""
                found.append(Subject(name=name, kind=kind, module=module, only_on=only_on))
    return tuple(found)


SUBJECTS = _own()


def subjects_of(file: str) -> tuple[Subject, ...]:
    """Return the subjects that ``file`` is a part of, in the order of ``SUBJECTS``.

    Those that one device alone runs are among them where it is a part of no others.
    """
    found = tuple(subject for subject in SUBJECTS if file in subject.files())
    return tuple(subject for subject in found if not subject.only_on) or found


def units_of(file: str) -> frozenset[str] | None:
    """Return the kernel files that are compiled with ``file`` in them, or None for a Python file."""
    if file.endswith(".py"):
        return None
    kernels = resource_dir("kernels_cuda")
    names = (path.name for path in kernels.glob("*.cu"))
    return frozenset(name for name in names if file in _closure({name}, _includes))


@functools.lru_cache
def _files(module: str) -> frozenset[str]:
    python = _closure({module}, _imports)
    kernels = resource_dir("kernels_cuda")
    named = {text for name in python for text in _kernel_names(name) if (kernels / text).is_file()}
    return frozenset({_path(name) for name in python} | _closure(named, _includes))


def _closure(start: set[str], following: Callable[[str], frozenset[str]]) -> set[str]:
    found, fresh = set(start), set(start)
    while fresh:
        fresh = {more for name in fresh for more in following(name)} - found
        found |= fresh
    return found


def _path(module: str) -> str:
    """File of a module of the package, relative to the package."""
    parts = module.split(".")[1:]
    plain = "/".join(parts) + ".py"
    return plain if (PACKAGE / plain).is_file() else "/".join([*parts, "__init__.py"])


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / _path(module)).read_text(encoding="utf-8"))


@functools.cache
def _imports(module: str) -> frozenset[str]:
    found: set[str] = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            found |= {f"{node.module}.{name.name}" for name in node.names} | {str(node.module)}
    return frozenset(name for name in found if (PACKAGE / _path(name)).is_file())


def _kernel_names(module: str) -> set[str]:
    """Names of kernel files that a module holds as text."""
    texts = (node.value for node in ast.walk(_tree(module)) if isinstance(node, ast.Constant))
    return {text for text in texts if isinstance(text, str) and text.endswith(".cu")}


@functools.cache
def _includes(file: str) -> frozenset[str]:
    folder = resource_dir("kernels_cuda")
    text = (folder / file).read_text(encoding="utf-8")
    return frozenset(name for name in INCLUDE.findall(text) if (folder / name).is_file())
