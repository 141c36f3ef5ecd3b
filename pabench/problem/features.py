"""Names of all that a case may ask for beyond plain attention; a backend declares those it has."""

from __future__ import annotations

from pabench.problem.masks import MASKS
from pabench.problem.problem import CACHE_FEATURES, FEATURES


def all_features() -> tuple[str, ...]:
    """Return them; masks come last, in the order of their table."""
    return (*FEATURES, *CACHE_FEATURES, *MASKS)
