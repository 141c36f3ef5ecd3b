# SPDX-License-Identifier: Apache-2.0
"""Where compiled kernels are kept: files named by the hash of everything that went into them.

Each file ends in a seal, a checksum over its name and content, which is looked at before the file is used:
one that was cut, changed or renamed counts as missing and is made again.  What is loaded into this process
must not come from others either, so that folders which others can write are not used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pabench.device.cache_upkeep import PREFIX, size_bound, tidy
from pabench.errors import EnvironmentRefused

MARK = b"pabench\x01"
SEAL_BYTES = len(MARK) + hashlib.sha256().digest_size


def cache_root() -> Path:
    """Return the folder for compiled kernels: ``$PABENCH_CACHE``, else the user's cache folder.

    Raises:
        EnvironmentRefused: ``$PABENCH_CACHE`` begins with the home folder of nobody.
    """
    override = os.environ.get("PABENCH_CACHE")
    if override:
        try:
            return Path(override).expanduser().absolute()
        except RuntimeError as error:
            raise EnvironmentRefused(f"PABENCH_CACHE = {override!r}: {error}") from None
    try:
        from platformdirs import user_cache_path
    except ImportError:
        base = os.environ.get("XDG_CACHE_HOME")
        return (Path(base) if base else Path.home() / ".cache") / "pabench"
    return user_cache_path("pabench")


def cache_folder() -> Path:
    """Return the folder that can be written and is trusted: ``cache_root()``, else one for temporary files.

    Raises:
        EnvironmentRefused: there is none, or others can write the folder that ``$PABENCH_CACHE`` names.
    """
    for folder in _folders():
        # root may write everywhere, says the system, and yet there are folders that take no file
        with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=folder, prefix=PREFIX):
            return folder
    raise _nowhere("no writable folder of ours")


def content_key(parts: Iterable[str | bytes]) -> str:
    """Return a hex digest of ``parts``; their boundaries count."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:32]


def cached_file(name: str, make: Callable[[Path], None]) -> Path:
    """Return the cached file ``name``; when missing or damaged, ``make(path)`` writes it elsewhere first.

    The rename at the end is atomic, so that two processes may build the same file at once.  A cache folder
    that cannot be written is replaced by a temporary one.  The seal lies behind what ``make`` wrote: a shared
    library ends where its headers say, so that the linker and the loader do not see it.

    Raises:
        EnvironmentRefused: neither folder can be written, or others can write the one that was asked for.
    """
    trouble = "no writable folder of ours"
    for folder in _folders():
        if _content(folder / name) is not None:
            return folder / name
        try:
            return _build(folder, name, make)
        except OSError as error:
            trouble = error.strerror or str(error)
    raise _nowhere(trouble)


def cached_text(name: str, make: Callable[[], str]) -> str:
    """Return the text kept under ``name``, or that of ``make()``, which is then kept where that is possible.

    Raises:
        EnvironmentRefused: others can write the folder that was asked for.
    """
    folders = list(_folders())
    for folder in folders:
        if (content := _content(folder / name)) is not None:
            return content.decode()
    text = make()
    for folder in folders:
        with contextlib.suppress(OSError):
            _build(folder, name, lambda path: path.write_bytes(text.encode()))
            break
    return text


def distrust(folder: Path, *, follow: bool = True) -> str | None:
    """Return why nothing may be loaded from ``folder``, or None; a folder that is missing is as good as ours.

    Args:
        folder: to look at.
        follow: whether a symbolic link is looked through.
    """
    try:
        status = folder.stat(follow_symlinks=follow)
    except OSError:
        return None
    if status.st_uid != os.geteuid():
        return f"cache folder {folder} belongs to another user (uid {status.st_uid})"
    if stat.S_ISLNK(status.st_mode):
        return f"cache folder {folder} is a link"
    if stat.S_ISDIR(status.st_mode) and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"cache folder {folder} can be written by others (mode {stat.S_IMODE(status.st_mode):o})"
    return None


def check_cache() -> None:
    """Look at what the user has set, so that it is refused before work begins and not in the midst of it.

    Raises:
        EnvironmentRefused: others can write the folder that ``$PABENCH_CACHE`` names, or
            ``$PABENCH_CACHE_SIZE`` is no size.
    """
    size_bound()
    root = cache_root()
    why = distrust(root)
    if why and os.environ.get("PABENCH_CACHE") and os.access(root, os.W_OK):
        raise EnvironmentRefused(
            f"{why}: what lies there could be anybody's code",
            hint="make it yours (chown, chmod go-w), or set PABENCH_CACHE to another folder",
        )


def _folders() -> Iterator[Path]:
    """Yield the folders to look in, made where they were missing and none of them of others."""
    check_cache()
    root = cache_root()
    with contextlib.suppress(OSError):
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if distrust(root) is None:
            yield root
    with contextlib.suppress(OSError):
        fallback = _fallback()
        fallback.mkdir(mode=0o700, exist_ok=True)
        if distrust(fallback, follow=False) is None:
            yield fallback


def _fallback() -> Path:
    return Path(tempfile.gettempdir()) / f"pabench-cache-{os.geteuid()}"


def _nowhere(trouble: str) -> EnvironmentRefused:
    try:
        second = str(_fallback())
    except OSError:
        second = "a folder for temporary files"
    return EnvironmentRefused(
        f"compiled kernels can be kept neither in {cache_root()} nor in {second}: {trouble}",
        hint="set PABENCH_CACHE to a folder that can be written",
    )


def _build(folder: Path, name: str, make: Callable[[Path], object]) -> Path:
    handle, draft = tempfile.mkstemp(dir=folder, prefix=PREFIX, suffix=Path(name).suffix)
    os.close(handle)
    try:
        make(Path(draft))
        with open(draft, "r+b") as file:
            seal = _seal(name, file.read())
            file.write(seal)
            file.flush()
            # before the rename: after a power cut the name must not stand for a file of zeros
            os.fsync(file.fileno())
        os.replace(draft, folder / name)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    tidy(folder)
    return folder / name


def _content(path: Path) -> bytes | None:
    """Return what lies before the seal of ``path``, or None where file or seal is missing or wrong."""
    try:
        if not path.is_file():
            return None
        with contextlib.suppress(OSError):  # of a read-only folder can be read all the same
            # first, so that nobody removes it for being old between here and its use
            os.utime(path)
        data = path.read_bytes()
    except OSError:
        return None
    content, seal = data[:-SEAL_BYTES], data[-SEAL_BYTES:]
    return content if seal == _seal(path.name, content) else None


def _seal(name: str, content: bytes) -> bytes:
    return MARK + hashlib.sha256(name.encode() + b"\0" + content).digest()
