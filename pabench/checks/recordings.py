# SPDX-License-Identifier: Apache-2.0
"""The recording beside a saved case, in its ``arrays.npz``: with it the case is judged again anywhere."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pabench.checks.case_files import AnyCase
from pabench.errors import UsageError, reason
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool, pool_parts
from pabench.problem.recorded import ARRAYS, RECORDED, Recording, keep
from pabench.text import one_line, shown_path

ARRAYS_FILE = "arrays.npz"
MAX_BYTES = 2**33
"""Unpacked."""


def keep_recording(folder: Path, case: AnyCase) -> None:
    """Let a case of the family ``recorded`` find its arrays in ``folder``; other cases need none.

    Raises:
        UsageError: there is no such file, or it holds other arrays.
    """
    if not isinstance(case, Case) or case.family != RECORDED:
        return
    path = folder / ARRAYS_FILE
    where = f"recording {shown_path(path)}"
    arrays = read_arrays(path, "recording", ARRAYS)
    q, storage, block_table = (arrays[name] for name in ARRAYS)
    pool = KvPool(
        storage=storage,
        kv_layout=case.kv_layout,
        interleaved=case.interleaved,
        parts=pool_parts(case.problem, case.gaps),
    )
    try:
        num_pages = pool.num_pages
    except IndexError:
        raise UsageError(f"{where}: storage has shape {storage.shape}, which is no cache") from None
    found = Recording(q=q, storage=storage, block_table=block_table, num_pages=num_pages)
    if keep(found) != case.inputs:
        raise UsageError(f"{where}: holds the recording {found.id}, the case names {case.inputs}")


def read_arrays(
    path: Path, what: str, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, Array]:
    """Return arrays of an .npz file; nothing in it is unpickled, and its sizes are looked at first.

    Raises:
        UsageError: it cannot be read, is none, or lacks one of ``names``; the message begins with ``what``.
    """
    where = f"{what} {shown_path(path)}"
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_BYTES:
            raise UsageError(f"{where}: unpacks to {size:,} bytes, must be at most {MAX_BYTES:,}")
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in (*names, *(one for one in optional if one in file))}
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {reason(error)}") from None
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(
            f"{where}: must be an .npz with {', '.join(names)}: {one_line(str(error))}"
        ) from None
