"""Files of captured activations: ``pabench model --capture`` writes them, ``--inputs`` names them.

A file is an ``.npz`` with ``q``, ``k``, ``v`` (see ``Capture``) and ``about``, JSON text.  Nothing in it
is ever unpickled, and its sizes are looked at before anything is unpacked.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pabench.errors import EnvironmentRefused, PabenchError, UsageError
from pabench.problem.captured import Capture, add_source
from pabench.resources import resource_dir

SCHEMA = 1
ARRAYS = ("q", "k", "v")
MAX_BYTES = 2**30
"""Unpacked."""
VARIABLE = "PABENCH_INPUTS"
"""Environment variable that names the file in use; worker processes inherit it."""
SAMPLE = "smollm2.npz"


def write_capture(path: Path, capture: Capture) -> None:
    """Write a capture; the same one gives the same bytes.  Raises ``EnvironmentRefused``."""
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
    unfinished = path.with_name(path.name + ".part")
    try:
        with unfinished.open("wb") as file:
            arrays = {name: getattr(capture, name) for name in ARRAYS}
            np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise EnvironmentRefused(f"cannot write {path}: {error.strerror or error}") from error


def read_capture(path: Path) -> Capture:
    """Read a capture.

    Raises:
        UsageError: there is no such file, or it is none of captured activations; the message says why.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        wanted = {f"{name}.npy" for name in (*ARRAYS, "about")}
        if set(sizes) != wanted:
            raise ValueError(
                f"it holds {', '.join(sorted(sizes)) or 'nothing'}, must hold {', '.join(sorted(wanted))}"
            )
        if sum(sizes.values()) > MAX_BYTES:
            raise ValueError(f"it unpacks to {sum(sizes.values()):,} bytes, must be at most {MAX_BYTES:,}")
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            arrays = {name: file[name] for name in ARRAYS}
        return _capture(about, arrays)
    except FileNotFoundError:
        raise UsageError(f"inputs = {str(path)!r}: there is no such file") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, PabenchError) as error:
        raise UsageError(f"inputs = {str(path)!r}: no file of captured activations: {error}") from error


def _capture(about: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Capture:
    if not isinstance(about, dict) or about.get("schema") != SCHEMA:
        raise ValueError(f"about is not of schema {SCHEMA}")
    for name in ("layers", "indptr"):
        given = about[name]
        if not isinstance(given, list) or not all(type(number) is int and number >= 0 for number in given):
            raise ValueError(f"{name} = {given!r}: must be a list of whole numbers")
    for name in ("model", "dtype", "prompt_hash"):
        if not isinstance(about[name], str):
            raise ValueError(f"{name} = {about[name]!r}: must be text")
    if not all(np.isfinite(array).all() for array in arrays.values() if array.dtype.kind == "f"):
        raise ValueError("a number is not finite")
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
