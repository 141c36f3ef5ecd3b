# SPDX-License-Identifier: Apache-2.0
"""Where CuPy keeps its binaries: it makes that folder when it is imported, and fails where it cannot."""

from __future__ import annotations

import contextlib
import os

from pabench.device.cache import cache_folder
from pabench.errors import EnvironmentRefused


def settle_cupy() -> None:
    """Give CuPy a folder in our cache, to be called before its first import; what the user has set stays.

    Its own choice is in the home folder, which containers often have read-only.
    """
    if "CUPY_CACHE_DIR" not in os.environ:
        with contextlib.suppress(EnvironmentRefused):  # then CuPy may find a place of its own
            os.environ["CUPY_CACHE_DIR"] = str(cache_folder() / "cupy")
