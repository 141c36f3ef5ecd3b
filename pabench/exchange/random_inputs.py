# SPDX-License-Identifier: Apache-2.0
"""Random inputs of a workload of paged attention: queries and caches, NaN where no sequence has a token."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pabench.problem.dtypes import encode

if TYPE_CHECKING:
    from pabench.exchange.paged import PagedAttention

MAX_POOL_ELEMENTS = 2**28
"""Elements of a random cache beyond which pages that no sequence uses are left out."""


def random_inputs(
    attention: PagedAttention,
    given: Mapping[str, Any],
    names: Sequence[str],
    axes: Mapping[str, int],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Return arrays for ``names``, and tables of fewer pages where a cache would be too large.

    Args:
        attention: the definition.
        given: the inputs that are not random.
        names: of queries and caches.
        axes: sizes of the variable axes.
        rng: of the draw.
    """
    definition = attention.definition

    def shape(name: str) -> tuple[int, ...]:
        spec = definition.inputs[name].shape or ()
        return tuple(int(definition.axes[axis] or axes[axis]) for axis in spec)

    caches = [name for name in names if name in attention.caches]
    found: dict[str, Any] = {}
    num_pages = shape(caches[0])[0] if caches else 0
    if (
        len(caches) == len(attention.caches)
        and num_pages * math.prod(shape(caches[0])[1:]) > MAX_POOL_ELEMENTS
    ):
        found, num_pages = attention.used(given)
    live = attention.live_slots({**given, **found}, num_pages) if caches else None
    for name in names:
        numbers = rng.standard_normal((num_pages, *shape(name)[1:]) if name in caches else shape(name))
        if name in caches and live is not None:
            numbers[~live] = np.nan
        found[name] = encode(numbers, attention.stored(name))
    return found
