"""The recording beside a saved case, in its ``arrays.npz``: with it the case is judged again anywhere."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from pabench.checks.case_files import AnyCase
from pabench.errors import UsageError, reason
from pabench.problem.case import Case
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
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_BYTES:
            raise UsageError(f"{where}: unpacks to {size:,} bytes, must be at most {MAX_BYTES:,}")
        with np.load(path, allow_pickle=False) as file:
            q, storage, block_table = (file[name] for name in ARRAYS)
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {reason(error)}") from None
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{where}: no arrays of a case: {one_line(str(error))}") from None
    pool = KvPool(
        storage=storage,
        kv_layout=case.kv_layout,
        interleaved=case.interleaved,
        parts=pool_parts(case.problem, case.page_gaps),
    )
    try:
        num_pages = pool.num_pages
    except IndexError:
        raise UsageError(f"{where}: storage has shape {storage.shape}, which is no cache") from None
    found = Recording(q=q, storage=storage, block_table=block_table, num_pages=num_pages)
    if keep(found) != case.inputs:
        raise UsageError(f"{where}: holds the recording {found.id}, the case names {case.inputs}")
