# SPDX-License-Identifier: Apache-2.0
"""Lines of the L2 cache that were set aside to stay (CUDA driver API, "L2 persistence").

What one backend leaves there would make the next one's cold cache warm.  CuPy has no call for it.
"""

from __future__ import annotations

import ctypes
from typing import Any

ROOM = 6
"""``CU_LIMIT_PERSISTING_L2_CACHE_SIZE`` of cuda.h."""


class PersistingLines:
    """Of the CUDA context that is current.

    Args:
        library: ``libcuda.so.1``, or what stands for it; None looks for it.
    """

    def __init__(self, library: Any = None) -> None:
        self._library = library
        if library is None:
            try:
                self._library = ctypes.CDLL("libcuda.so.1")
            except OSError:
                self._library = None

    def reset(self) -> bool:
        """Take away the room for such lines and free those that are there; return whether that was done.

        Drivers before CUDA 11 and GPUs before sm_80 have neither the calls nor the lines.
        """
        taken = self._call("cuCtxSetLimit", ctypes.c_int(ROOM), ctypes.c_size_t(0))
        return self._call("cuCtxResetPersistingL2Cache") and taken

    def room(self) -> int:
        """Return how many bytes of the cache are set aside now; 0 where nobody can."""
        found = ctypes.c_size_t()
        return found.value if self._call("cuCtxGetLimit", ctypes.byref(found), ctypes.c_int(ROOM)) else 0

    def _call(self, name: str, *arguments: Any) -> bool:
        function = getattr(self._library, name, None)
        return function is not None and function(*arguments) == 0
