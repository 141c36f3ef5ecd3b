# SPDX-License-Identifier: Apache-2.0
"""Mutants: planted one-line faults, kept as data, to measure what the suite catches.

A file is TOML with one ``[[mutant]]`` table a fault::

    [[mutant]]
    id = "loop-bound-minus-one"
    file = "paged_decode_simple.cu"
    before = "const int kv_len = kv_lens[sequence];"
    after = "const int kv_len = kv_lens[sequence] - 1;"
    bugs = ["B059"]
    trigger = "any sequence with a token"
    killed_by = "decode[needle]"

``overlay`` plants a mutant into a copy of the kernel folder, ``load_mutated`` of ``python_mutants.py`` into a
copy of a Python module; the sources themselves are never touched.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pabench.errors import InvalidCase, UsageError
from pabench.resources import RESOURCES, resource_dir
from pabench.tables import check_fields, read_tables

PACKAGE = Path(__file__).resolve().parents[1]
"""Mutants name Python files relative to this folder."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MOVED = {
    "allocators": ("subjects/allocators", "judge/allocators"),
    "backends": ("subjects/backends",),
    "conformance": ("checks", "activities/conformance", "selftest", "strategies"),
    "isolation": ("run",),
    "model": ("activities/model",),
    "oracle": ("judge",),
    "peers": ("subjects/peers",),
    "serving": ("activities/serving",),
    "store": ("run",),
    "stress": ("activities/stress",),
    "sweep": ("activities/sweep",),
}
"""Folders of the package that are no more, and where their files went: the first that has the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One planted fault.

    Attributes:
        id: letters, digits, ``.``, ``_`` and ``-``; unique in its file.
        file: file that is changed, with forward slashes, relative to the kernel folder, or to the package
            for a Python file; ``load_mutants`` knows where files stood before they moved.
        before: text that stands in ``file`` exactly once.
        after: text that takes its place.
        bugs: what is known of real bugs of this kind; names or links, may be empty.
        trigger: the input without which the fault changes nothing.
        killed_by: id of the check that must fail, with the family in brackets where it has one.
        subject: backend or allocator to ask first; empty for the order of ours.
        also: more texts of ``file`` and what takes their place, where one place is not the whole fault.
    """

    id: str
    file: str
    before: str
    after: str
    bugs: tuple[str, ...]
    trigger: str
    killed_by: str
    subject: str = ""
    also: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "bugs":
                if not isinstance(value, tuple) or not all(isinstance(bug, str) for bug in value):
                    raise InvalidCase("bugs", value, "must be a list of text")
            elif field.name == "also":
                if not isinstance(value, tuple) or not all(map(_is_pair, value)):
                    raise InvalidCase("also", value, "must be a list of pairs of text")
            elif not isinstance(value, str) or not (value.strip() or field.name in ("after", "subject")):
                raise InvalidCase(field.name, value, "must be text that is not empty")
        if not NAME.fullmatch(self.id):
            raise InvalidCase("id", self.id, "must be letters, digits, '.', '_' and '-'")
        path = PurePosixPath(self.file)
        if path.is_absolute() or ".." in path.parts or "\\" in self.file:
            raise InvalidCase("file", self.file, "must be a path inside the folder of the sources")
        if self.before == self.after:
            raise InvalidCase("after", self.after, "must differ from before")


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(text, str) for text in value)


def load_mutants(path: Path) -> tuple[Mutant, ...]:
    """Read a file of mutants, in its order.

    Raises:
        UsageError: the file cannot be read, is not TOML, or has no or other tables than ``[[mutant]]``.
        InvalidCase: a field is missing, unknown or wrong, or an id is there twice.
    """
    entries = read_tables(path, what="mutants", entry="mutant")
    mutants: dict[str, Mutant] = {}
    for number, entry in enumerate(entries, start=1):
        try:
            mutant = mutant_of_dict(entry)
            if mutant.id in mutants:
                raise InvalidCase("id", mutant.id, "must be unique in its file")
        except InvalidCase as error:
            raise InvalidCase(f"{path}: mutant {number}: {error.field}", error.value, error.rule) from None
        mutants[mutant.id] = mutant
    return tuple(mutants.values())


def mutant_of_dict(entry: Any) -> Mutant:
    """Return the mutant of a table, or of the dictionary of one.

    Raises:
        InvalidCase: a field is missing, unknown or wrong.
    """
    names = {field.name for field in fields(Mutant)}
    check_fields(entry, names - {"also", "subject"}, names)
    bugs, also = entry["bugs"], entry.get("also", [])
    given = {"bugs": tuple(bugs) if isinstance(bugs, list) else bugs}
    pairs = isinstance(also, list) and all(isinstance(pair, list) for pair in also)
    given["also"] = tuple(tuple(pair) for pair in also) if pairs else also
    mutant = Mutant(**{**entry, **given})
    return replace(mutant, file=present_file(mutant.file))


def content_id(mutant: Mutant) -> str:
    """Return a short hash of the fault and of the check that is named for it."""
    told = [mutant.file, mutant.before, mutant.after, mutant.also, mutant.killed_by]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:8]


def present_file(file: str) -> str:
    """Return where ``file`` stands in the package today, when it has moved since; any other as it is."""
    room, _, rest = file.partition("/")
    if (PACKAGE / file).is_file():
        return file
    return next((f"{new}/{rest}" for new in MOVED.get(room, ()) if (PACKAGE / new / rest).is_file()), file)


def mutated(mutant: Mutant, folder: Path) -> str:
    """Return the text of the mutant's file in ``folder`` with the fault in it.

    Raises:
        UsageError: the file cannot be read, or does not hold ``before`` exactly once.
    """
    path = folder / mutant.file
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"mutant {mutant.id!r}: {path} cannot be read: {error}") from None
    for before, after in ((mutant.before, mutant.after), *mutant.also):
        count = text.count(before)
        if count != 1:
            rule = f"before must stand in {mutant.file} exactly once, found {count} times"
            raise UsageError(f"mutant {mutant.id!r}: {rule}")
        text = text.replace(before, after)
    return text


def overlay(mutant: Mutant, kernels: Path, target: Path) -> Path:
    """Copy the folder ``kernels`` to ``target``, which must not exist, plant the fault, return ``target``.

    Nothing is written when the fault does not fit.

    Raises:
        UsageError: as for ``mutated``, or ``target`` is there already.
    """
    text = mutated(mutant, kernels)
    if target.exists():
        raise UsageError(f"mutant {mutant.id!r}: {target} exists already")
    shutil.copytree(kernels, target)
    (target / mutant.file).write_text(text, encoding="utf-8")
    return target


def overlay_package(mutant: Mutant, target: Path) -> Path:
    """Make ``target``, which must not exist, a folder to import the package with the fault from.

    What ships beside the package is found there as well.

    Raises:
        UsageError: as for ``overlay``.
    """
    overlay(mutant, PACKAGE, target / PACKAGE.name)
    for name in RESOURCES:
        if not (target / PACKAGE.name / "_bundled" / name).is_dir():
            (target / name).symlink_to(resource_dir(name), target_is_directory=True)
    return target
