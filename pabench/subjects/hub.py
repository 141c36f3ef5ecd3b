# SPDX-License-Identifier: Apache-2.0
"""Finds a kernel of the Hugging Face hub where it lies already: in a folder, or in the hub's cache.

A name is ``hub:owner/name@revision:function`` or ``hub:folder:function``; ``decode`` where no function is
named.  Nothing is downloaded, and nothing of it runs before the subject's process loads it.  A repository
of kernels has a folder ``build`` with one folder per variant, or in source form ``torch-ext`` (Hugging
Face, "Kernel specifications", kernels 0.17).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from pabench.errors import UsageError
from pabench.subjects.reference import Reference

PREFIX = "hub:"
FUNCTION = "decode"
NAME = re.compile(r"(?P<owner>[\w.-]+)/(?P<name>[\w.-]+)@(?P<revision>[\w./-]+)")
KINDS = ("kernels", "models")
"""How the cache calls a repository of kernels: as of a kind of its own, or as the hub's first ones were."""
EVERYWHERE = ("torch-universal", "torch-noarch")


def resolve_hub(kind: str, text: str) -> Reference:
    """Return where a hub kernel lies on this machine; raises ``UsageError``."""
    asked = text.removeprefix(PREFIX)
    where, colon, function = asked.rpartition(":")
    if not colon:
        where, function = asked, FUNCTION
    if not function.isidentifier():
        raise UsageError(f"{kind} {text!r}: {function!r} is no name in Python")
    folder = Path(where).absolute() if where and Path(where).is_dir() else _cached(f"{kind} {text!r}", where)
    module = _module(f"{kind} {text!r}", folder)
    return Reference(kind=kind, name=text, place=f"{module}:{function}", at_place=True)


def _cached(what: str, where: str) -> Path:
    found = NAME.fullmatch(where)
    if found is None:
        raise UsageError(
            f"{what}: {where!r} is no folder; must be hub:owner/name@revision or hub:folder, with :function"
        )
    owner, name, revision = found["owner"], found["name"], found["revision"]
    tried = []
    for cache in _caches():
        for kind in KINDS:
            repository = cache / f"{kind}--{owner}--{name}"
            tried.append(str(cache))
            try:
                commit = (repository / "refs" / revision).read_text(encoding="utf-8").strip()
            except OSError:
                commit = revision
            if (snapshot := repository / "snapshots" / commit).is_dir():
                return snapshot
    raise UsageError(
        f"{what}: not in {' or '.join(dict.fromkeys(tried))}",
        hint=f"nothing is downloaded here; fetch it first: hf download {owner}/{name} --revision {revision}",
    )


def _caches() -> Iterator[Path]:
    home = Path(os.environ.get("HF_HOME", Path("~/.cache/huggingface").expanduser()))
    for given in (os.environ.get("KERNELS_CACHE"), os.environ.get("HF_HUB_CACHE"), home / "hub"):
        if given:
            yield Path(given)


def _module(what: str, folder: Path) -> Path:
    """Return the ``__init__.py`` of the variant for this machine."""
    builds = folder / "build"
    there = sorted(path.name for path in builds.iterdir() if path.is_dir()) if builds.is_dir() else []
    fitting = [name for name in variants() if name in there]
    roots = [builds / fitting[0]] if fitting else [folder / "torch-ext", folder]
    if there and not fitting:
        raise UsageError(
            f"{what}: no build for this machine (has {', '.join(there)}; wanted {' or '.join(variants())})"
        )
    for root in roots:
        for found in (root / "__init__.py", *sorted(root.glob("*/__init__.py"))):
            if found.is_file():
                return found
    raise UsageError(f"{what}: {folder} has no build, no torch-ext and no __init__.py")


def variants() -> list[str]:
    """Return the names of builds that run here, the best first; torch is asked for its version alone."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return list(EVERYWHERE)
    release, _, local = version.partition("+")
    major, minor = release.split(".")[:2]
    machine = f"{platform.machine()}-{platform.system().lower()}"
    compute = local if re.fullmatch(r"cu\d+", local) else "cpu" if local == "cpu" else ""
    exact = [f"torch{major}{minor}-{abi}{compute}-{machine}" for abi in ("cxx11-", "")] if compute else []
    stable = ["torch-cpu"] if compute == "cpu" else ["torch-cuda"]
    return [*exact, *stable, *EVERYWHERE]
