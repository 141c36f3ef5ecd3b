# SPDX-License-Identifier: Apache-2.0
"""Opens a file of text as it lies there: plain, gzip or Zstandard, told by its first bytes."""

from __future__ import annotations

import gzip
import importlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from pabench.errors import EnvironmentRefused

CHUNK_BYTES = 2**16
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def open_text(path: Path) -> IO[str]:
    """Open UTF-8 text, with or without a byte order mark and with any line ends.

    Raises:
        OSError: the file cannot be opened.
        EnvironmentRefused: it is Zstandard, and no package that reads it is installed.
    """
    file: Any = path.open("rb")
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(GZIP):
        file = gzip.GzipFile(fileobj=file)
    elif magic == ZSTD:
        file = _zstd(file, path)
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline=None)


def _zstd(file: IO[bytes], path: Path) -> Any:
    """Python has it from 3.14 on; before, a package does."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name).ZstdFile(file)
        except ImportError:
            continue
    try:
        module = importlib.import_module("zstandard")
    except ImportError:
        file.close()
        hint = f"pip install zstandard, or unpack it: zstd -d {path.name}"
        raise EnvironmentRefused(f"{path} is compressed by Zstandard", hint=hint) from None
    return io.BufferedReader(_Frames(file, module.ZstdDecompressor().decompressobj))


class _Frames(io.RawIOBase):
    """Bytes of the frames of a file; unlike the package's own reader, it tells of a file that is cut off."""

    def __init__(self, file: IO[bytes], new: Callable[[], Any]) -> None:
        self._file, self._new, self._frame, self._held = file, new, new(), b""
        self._begun = False

    def readable(self) -> bool:
        """See ``RawIOBase``."""
        return True

    def readinto(self, buffer: Any) -> int:
        """See ``RawIOBase``."""
        while not self._held:
            packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._begun = self._new(), False
            packed = packed or self._file.read(CHUNK_BYTES)
            if not packed:
                if self._begun:
                    raise EOFError("it ends inside a frame")
                return 0
            self._begun = True
            self._held = self._frame.decompress(packed)
        taken = len(buffer) if len(buffer) < len(self._held) else len(self._held)
        buffer[:taken], self._held = self._held[:taken], self._held[taken:]
        return taken

    def close(self) -> None:
        """Close the file too."""
        self._file.close()
        super().close()


def damage(error: Exception) -> bool:
    """Whether an error of reading says that compressed data is damaged or cut off."""
    module = type(error).__module__.partition(".")[0]
    unpackers = "zlib", "zstandard", "backports", "compression", "_zstd"
    return isinstance(error, EOFError | gzip.BadGzipFile) or module in unpackers
