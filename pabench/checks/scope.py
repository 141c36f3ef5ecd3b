# SPDX-License-Identifier: Apache-2.0
"""What part of a backend's range the cases of a run are drawn from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Limits beside those that a backend declares; each is None for no limit.

    Each dtype, head_dim and set of features is one more kernel to compile: who looks for one fault draws
    from few.

    Attributes:
        dtypes: storage types.
        max_head_dim: largest head dimension.
        features: what cases may have beyond plain attention.
    """

    dtypes: tuple[str, ...] | None = None
    max_head_dim: int | None = None
    features: tuple[str, ...] | None = None

    def of_dtypes(self, names: Iterable[str]) -> list[str]:
        """Return those of ``names`` that are within the scope."""
        return [name for name in names if self.dtypes is None or name in self.dtypes]

    def of_features(self, names: Iterable[str]) -> list[str]:
        """Return those of ``names`` that are within the scope."""
        return [name for name in names if self.features is None or name in self.features]


EVERYTHING = Scope()
"""No limits."""


def scope_from_dict(data: dict[str, Any]) -> Scope:
    """Read the fields of a scope back from JSON."""
    lists = {name: None if data[name] is None else tuple(data[name]) for name in ("dtypes", "features")}
    return Scope(**{**data, **lists})
