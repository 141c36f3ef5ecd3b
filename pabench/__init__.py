# SPDX-License-Identifier: Apache-2.0
"""Benchmark and conformance suite for paged attention.

``check`` judges a function of this program, ``read`` and ``compare`` return runs as pandas DataFrames.  Each
is imported when it is first asked for: what they need is heavy, and most of what imports pabench needs none.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pabench.analysis.frame import read
    from pabench.comparison.compare import compare
    from pabench.trial.check import check

__version__ = "0.2.0"
__all__ = ["__version__", "check", "compare", "read"]
_PLACES = {
    "check": "pabench.trial.check",
    "compare": "pabench.comparison.compare",
    "read": "pabench.analysis.frame",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_PLACES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
