# SPDX-License-Identifier: Apache-2.0
"""Files of captured activations: ``pabench model --capture`` writes them, ``--inputs`` names them.

A file is an ``.npz`` with ``q``, ``k``, ``v`` (see ``Capture``) and ``about``, JSON text.  Nothing in it
is ever unpickled, and its sizes are looked at before anything is unpacked.
"""

from __future__ import annotations

import io
import json
import math
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from pabench.errors import UsageError, reason
from pabench.problem.captured import Capture, add_source
from pabench.problem.dtypes import Array
from pabench.resources import resource_dir
from pabench.text import one_line, shown, shown_path

SCHEMA = 1
ARRAYS = ("q", "k", "v")
MAX_BYTES = 2**30
"""Unpacked."""
WHY_LIMIT = 300
ENCRYPTED = 1
"""Bit of a zip entry's flags."""
NPY = b"\x93NUMPY"
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
VARIABLE = "PABENCH_INPUTS"
"""Environment variable that names the file in use; worker processes inherit it."""
SAMPLE = "smollm2.npz"


def capture_bytes(capture: Capture) -> bytes:
    """Return the file of a capture; the same one gives the same bytes."""
    about = {
        "schema": SCHEMA,
        "model": capture.name,
        "layers": list(capture.layers),
        "indptr": list(capture.indptr),
        "dtype": capture.dtype,
        "num_qo_heads": capture.q.shape[2],
        "num_kv_heads": capture.k.shape[2],
        "head_dim": capture.k.shape[3],
        "sm_scale": capture.sm_scale,
        "rope": "applied",
        "prompt_hash": capture.prompt_hash,
    }
    file = io.BytesIO()
    arrays = {name: getattr(capture, name) for name in ARRAYS}
    np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)
    return file.getvalue()


def read_capture(path: Path) -> Capture:
    """Read a capture.

    Raises:
        UsageError: there is no such file, or it is none of captured activations; the message says why.
    """
    try:
        with zipfile.ZipFile(path) as archive, warnings.catch_warnings():
            # numpy warns of a header that it then refuses
            warnings.simplefilter("ignore")
            entries = _entries(archive)
            about = json.loads(str(_Stored(archive, entries["about.npy"]).array()[()]))
            stored = {name: _Stored(archive, entries[f"{name}.npy"]) for name in ARRAYS}
            # whatever the headers promise is held to the rest before anything of that size is unpacked
            _capture(about, {name: one.stub() for name, one in stored.items()})
            arrays = {name: one.array() for name, one in stored.items()}
        if not all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f"):
            raise ValueError("a number is not finite")
        return _capture(about, arrays)
    except FileNotFoundError:
        raise UsageError(f"inputs = {shown_path(path)}: there is no such file") from None
    except Exception as error:  # zip, deflate, numpy and JSON have a dozen classes of errors for a bad file
        raise UsageError(
            f"inputs = {shown_path(path)}: no file of captured activations: {_why(error)}"
        ) from error


def _why(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "about is nested too deeply"
    if isinstance(error, OSError):
        return reason(error)
    if isinstance(error, KeyError):
        return f"about has no {error}"
    return one_line(str(error), WHY_LIMIT) or type(error).__name__


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The entries by name; raises ``ValueError`` where they are not those of a capture, or too large."""
    entries = archive.infolist()
    wanted, names = sorted(f"{name}.npy" for name in (*ARRAYS, "about")), sorted(e.filename for e in entries)
    if names != wanted:
        raise ValueError(f"it holds {shown(', '.join(names) or 'nothing')}, must hold {', '.join(wanted)}")
    for entry in entries:
        if entry.flag_bits & ENCRYPTED:
            raise ValueError(f"{entry.filename} is encrypted, must not be")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            method = f"method {entry.compress_type}"
            raise ValueError(f"{entry.filename} is compressed by {method}, must be stored or deflated")
    size = sum(entry.file_size for entry in entries)
    if size > MAX_BYTES:
        raise ValueError(f"it unpacks to {size:,} bytes, must be at most {MAX_BYTES:,}")
    return {entry.filename: entry for entry in entries}


class _Stored:
    """An array in the archive of which the header alone is read, and held to the size of its entry."""

    def __init__(self, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
        self._archive, self._entry = archive, entry
        with archive.open(entry) as file:
            if file.read(len(NPY)) != NPY:
                raise ValueError(f"{entry.filename} is no .npy file")
            file.seek(0)
            version = npy.read_magic(file)
            if version not in HEADERS:
                raise ValueError(f"{entry.filename} is of .npy version {version}, must be 1.0 or 2.0")
            self.shape, self._fortran, self.dtype = HEADERS[version](file)
            self._begin = file.tell()
        if self.dtype.hasobject:
            raise ValueError(f"{entry.filename} holds pickled objects, must hold numbers")
        room, size = entry.file_size - self._begin, math.prod(self.shape) * self.dtype.itemsize
        if min(self.shape, default=0) < 0 or size != room:
            what = f"{entry.filename} has shape {shown(self.shape)} of {self.dtype}"
            raise ValueError(f"{what}, {shown(size)} bytes, in an entry of {room:,}")

    def stub(self) -> Array:
        """Return an array of this shape and type that takes no room."""
        return np.broadcast_to(np.zeros((), self.dtype), self.shape)

    def array(self) -> Array:
        """Unpack and return the array."""
        with self._archive.open(self._entry) as file:
            file.read(self._begin)
            flat = np.frombuffer(file.read(), self.dtype)
        return flat.reshape(self.shape[::-1]).T if self._fortran else flat.reshape(self.shape)


def _capture(about: Any, arrays: dict[str, Array]) -> Capture:
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        raise ValueError(f"about is not of schema {SCHEMA}")
    for name in ("layers", "indptr"):
        given = about[name]
        if not isinstance(given, list) or not all(type(number) is int and number >= 0 for number in given):
            raise ValueError(f"{name} = {shown(given)}: must be a list of whole numbers")
    for name in ("model", "dtype", "prompt_hash"):
        if not isinstance(about[name], str):
            raise ValueError(f"{name} = {shown(about[name])}: must be text")
    return Capture(
        name=about["model"],
        layers=tuple(about["layers"]),
        indptr=tuple(about["indptr"]),
        dtype=about["dtype"],
        sm_scale=about["sm_scale"],
        prompt_hash=about["prompt_hash"],
        q=arrays["q"],
        k=arrays["k"],
        v=arrays["v"],
    )


@contextmanager
def inputs_in_use(path: Path | None) -> Iterator[Capture]:
    """Let the family ``captured`` draw from a file, or from the sample, in this process and those it starts.

    Raises:
        UsageError: see ``read_capture``.
    """
    before = os.environ.get(VARIABLE)
    if path is not None:
        read_capture(path)
        os.environ[VARIABLE] = str(path.absolute())
    try:
        yield capture_in_use()
    finally:
        if before is not None:
            os.environ[VARIABLE] = before
        else:
            os.environ.pop(VARIABLE, None)


def capture_in_use() -> Capture:
    """Return the capture of ``--inputs``, or the sample that comes with pabench."""
    return _read(os.environ.get(VARIABLE) or str(sample_file()))


def asked_capture() -> Capture | None:
    """Return the capture of ``--inputs``, or None where nobody named one."""
    return capture_in_use() if os.environ.get(VARIABLE) else None


def sample_file() -> Path:
    """Return where the sample lies."""
    return resource_dir("suites") / "inputs" / SAMPLE


@lru_cache(maxsize=4)
def _read(path: str) -> Capture:
    return read_capture(Path(path))


def _known() -> Iterator[Capture]:
    """The file in use, and the sample, so that a saved case of it replays whatever is in use."""
    yield capture_in_use()
    yield _read(str(sample_file()))


add_source(_known)
