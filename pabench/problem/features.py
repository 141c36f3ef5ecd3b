"""Names of all that a case may ask for beyond plain attention; a backend declares those it has."""

from __future__ import annotations

from pabench.problem.problem import CACHE_FEATURES, FEATURES

ALL_FEATURES = (*FEATURES, *CACHE_FEATURES)
