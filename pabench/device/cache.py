"""Where compiled kernels are kept: files named by the hash of everything that went into them."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from pabench.errors import EnvironmentRefused


def cache_root() -> Path:
    """Return the folder for compiled kernels: ``$PABENCH_CACHE``, else the user's cache folder."""
    override = os.environ.get("PABENCH_CACHE")
    if override:
        return Path(override).expanduser().absolute()
    try:
        from platformdirs import user_cache_path
    except ImportError:
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path.home() / ".cache") / "pabench"
    return user_cache_path("pabench")


def content_key(parts: Iterable[str | bytes]) -> str:
    """Return a hex digest of ``parts``; their boundaries count."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:32]


def cached_file(name: str, make: Callable[[Path], None]) -> Path:
    """Return the cached file ``name``; when missing, ``make(path)`` writes it under a temporary name.

    The rename at the end is atomic, so that two processes may build the same file at once.  A cache folder
    that cannot be written is replaced by a temporary one.

    Raises:
        EnvironmentRefused: neither folder can be written.
    """
    chosen, fallback = cache_root(), Path(tempfile.gettempdir()) / f"pabench-cache-{os.getuid()}"
    for folder in (chosen, fallback):
        if folder == fallback and not _is_ours(folder):
            continue
        target = folder / name
        if target.is_file():
            return target
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=folder, prefix=".building-", suffix=target.suffix)
        except OSError:
            continue
        os.close(handle)
        try:
            make(Path(temporary))
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return target
    raise EnvironmentRefused(
        f"compiled kernels can be kept neither in {chosen} nor in {fallback}: no writable folder of ours",
        hint="set PABENCH_CACHE to a folder that can be written",
    )


def _is_ours(folder: Path) -> bool:
    """Whether ``folder`` is missing or belongs to this user: what others left there must not be loaded."""
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
