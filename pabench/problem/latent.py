# SPDX-License-Identifier: Apache-2.0
"""Keys of a latent cache: they begin with the values, and have the logits that are wanted all the same."""

from __future__ import annotations

import numpy as np

from pabench.problem.dtypes import Array
from pabench.problem.problem import Problem


def steered_part(problem: Problem) -> slice:
    """Elements of a key that give it its logit: all, or behind the values that a latent one begins with."""
    return slice(problem.value_dim if problem.latent and problem.value_dim < problem.head_dim else 0, None)


def put_values_in_keys(keys: Array, values: Array, direction: Array, steered: slice, scaled: float) -> Array:
    """Let latent ``keys (n, head_dim)`` begin with ``values``, and have the logits that they had; in place.

    Return the direction of the queries, which have a smaller share of it where the values lie, so that no
    logit hangs on these alone.

    Args:
        keys: multiples of ``direction``.
        values: ``(n, head_dim_v)``.
        direction: ``(head_dim,)``, +-1.
        steered: elements behind the values; all, where there are none behind.
        scaled: softmax scale times size of the queries.
    """
    count = values.shape[1]
    if not steered.start:
        # keys are values: these change along the direction, so that its logit is the wanted one
        along = values @ direction / count
        limit = max(1.0, float(np.abs(values).max(initial=0.0)))
        keys += np.clip(values - along[:, None] * direction, -limit, limit)
        return direction
    carried = values @ direction[:count]
    largest = float(np.abs(carried).max(initial=0.0)) * scaled
    share = min(0.5, 1.0 / largest) if largest else 0.5
    keys[:, :count] = values
    keys[:, count:] -= (share * carried / (keys.shape[1] - count))[:, None] * direction[count:]
    return np.concatenate([share * direction[:count], direction[count:]])
