# SPDX-License-Identifier: Apache-2.0
"""What the static table compiles: our instances, a copy of the sources, or anybody's kernel file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pabench.device.base import KernelSource
from pabench.errors import UsageError
from pabench.kernels.instance import KernelEntry, KernelInstance
from pabench.kernels.instances import kernel_instances


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticSource:
    """One compilation of the static table.

    Attributes:
        source: file, macros, headers.
        label: the instance in words.
        entries: what is known of its launches, by entry point; empty for a kernel that is not known.
        default: threads and bytes of dynamic shared memory of a block, for entry points that are not known.
        architectures: those it is launched on; empty for all.
    """

    source: KernelSource
    label: str
    entries: Mapping[str, KernelEntry] = field(default_factory=dict)
    default: tuple[int, int] | None = None
    architectures: frozenset[str] = frozenset()

    def suits(self, architecture: str) -> bool:
        """Whether this instance is launched on ``architecture``."""
        return not self.architectures or architecture in self.architectures

    def entry(self, name: str) -> KernelEntry | None:
        """Return how the entry point ``name`` is launched, or None when nobody said."""
        if name in self.entries or self.default is None:
            return self.entries.get(name)
        threads, shared_bytes = self.default
        return KernelEntry(name=name, threads=threads, shared_bytes=shared_bytes)


def folder_sources(folder: Path) -> tuple[StaticSource, ...]:
    """Return all instances of the kernel files in ``folder``, files and headers taken from there.

    Raises:
        UsageError: no folder, or none with a kernel file in it.
    """
    if not folder.is_dir():
        raise UsageError(f"--kernels {folder}: no such folder")
    files = sorted(folder.glob("*.cu"))
    if not files:
        raise UsageError(f"--kernels {folder}: holds no .cu file")
    return tuple(source for path in files for source in file_sources(path, include_dir=folder))


def file_sources(
    path: Path, *, include_dir: Path, defines: Mapping[str, str] | None = None
) -> tuple[StaticSource, ...]:
    """Return the instances of one kernel file.

    With ``defines`` it is the one instance of these macros.  Else a file that is named like one of ours, or
    defines the same entry points, has the instances of ours; any other is compiled once without macros.

    Raises:
        UsageError: the file cannot be read.
    """
    known = _family(path)
    if defines is not None:
        known = [one for one in known if {name: str(v) for name, v in one.defines.items()} == dict(defines)]
        label = known[0].label if known else " ".join(f"{name}={value}" for name, value in defines.items())
        source = KernelSource(path=path, include_dir=include_dir, defines=dict(defines))
        entries = {entry.name: entry for entry in known[0].entries} if known else {}
        return (StaticSource(source=source, label=label, entries=entries),)
    if not known:
        return (StaticSource(source=KernelSource(path=path, include_dir=include_dir), label="no macros"),)
    return tuple(
        StaticSource(
            source=KernelSource(
                path=path,
                include_dir=include_dir,
                defines={name: str(value) for name, value in instance.defines.items()},
            ),
            label=instance.label,
            entries={entry.name: entry for entry in instance.entries},
            architectures=instance.architectures,
        )
        for instance in known
    )


def _family(path: Path) -> list[KernelInstance]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"kernel file {path} cannot be read: {error}") from None
    instances = kernel_instances()
    named = [instance for instance in instances if instance.file == path.name]
    return named or [
        instance
        for instance in instances
        if all(re.search(rf"\b{entry.name}\s*\(", text) for entry in instance.entries)
    ]
