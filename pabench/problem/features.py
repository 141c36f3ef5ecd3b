# SPDX-License-Identifier: Apache-2.0
"""Names of all that a case may ask for beyond plain attention; a backend declares those it has."""

from __future__ import annotations

from pabench.problem.formats import format_features
from pabench.problem.masks import MASKS
from pabench.problem.problem import CACHE_FEATURES, FEATURES, SCALE_FEATURES


def all_features() -> tuple[str, ...]:
    """Return them; formats of the cache and masks come last, in the order of their tables."""
    formats = (name for name in format_features() if name not in FEATURES)
    return (*FEATURES, *CACHE_FEATURES, *SCALE_FEATURES, *formats, *MASKS)
