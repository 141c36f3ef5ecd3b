# SPDX-License-Identifier: Apache-2.0
"""Keeps numpy's BLAS on one thread.

OpenBLAS wakes a thread a core for products of a few thousand numbers.  That costs more than it saves, and
many times more where other processes keep the cores busy: five times the whole truth of drawn cases.  numpy
itself has no switch, and environment variables are read before the first import only.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

from numpy.linalg import _umath_linalg

SWITCHES = (
    ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
    ("openblas_get_num_threads64_", "openblas_set_num_threads64_"),
    ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
    ("openblas_get_num_threads", "openblas_set_num_threads"),
    ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
)
"""Functions of the libraries that numpy is built with, in the wheels of numpy 2 and 1, and elsewhere."""


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Run numpy's matrix products on one thread; a BLAS without a known switch is left as it is."""
    switch = _switch()
    if switch is None:
        yield
        return
    read, write = switch
    before = read()
    write(1)
    try:
        yield
    finally:
        write(before)


@cache
def _switch() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """Return the functions that read and set the number of threads, or None."""
    # a lookup in numpy's module reaches the libraries that it is linked to, wherever they lie
    library = ctypes.CDLL(_umath_linalg.__file__)
    for read, write in SWITCHES:
        if hasattr(library, read) and hasattr(library, write):
            return getattr(library, read), getattr(library, write)
    return None
