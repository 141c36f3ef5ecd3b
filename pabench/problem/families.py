# SPDX-License-Identifier: Apache-2.0
"""Adversarial input families: keys, values and queries built so that a paging fault shows.

Random tensors hide faults: softmax averages them away, and without a mask it does not even see the order of
the pages.  Each family therefore fixes the logits it wants, key by key, and codes positions into the values.

A family sees one sequence and one KV head.  It returns the wanted logit of every key (natural units, after
the softmax scale) and the value rows; ``tensors.py`` turns logits into keys along a random direction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pabench.problem.dtypes import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyInput:
    """What a family may know: the shape, the places where a kernel changes its path, and a generator.

    Attributes:
        boundaries: page and tile edges, and those of the window.
        first_visible: first key that the last query row sees, above 0 only with a window.
        soft_cap: cap of the logits, None for none.
        largest: value that the cache can hold, its scale included, and 65,504 at most: sums of larger ones
            leave float32 in right kernels too.
        smallest: value below which the cache holds fewer bits, its scale included, and 2^-14 at least.
    """

    kv_len: int
    head_dim: int
    boundaries: tuple[int, ...]
    rng: np.random.Generator
    first_visible: int = 0
    soft_cap: float | None = None
    largest: float = 65504.0
    smallest: float = 2.0**-14


Family = Callable[[FamilyInput], tuple[Array, Array]]
"""Returns ``logits (kv_len,)`` and ``values (kv_len, head_dim)``, both float64."""


def _noise(at: FamilyInput, spread: float = 1.0) -> Array:
    return at.rng.normal(0.0, spread, at.kv_len)


def _random_values(at: FamilyInput) -> Array:
    return at.rng.normal(0.0, 1.0, (at.kv_len, at.head_dim))


def _boundary(at: FamilyInput) -> int:
    """A token index next to a place where kernels go wrong: the ends, or a page or tile edge."""
    places = sorted({b for b in at.boundaries if 0 <= b < at.kv_len} | {0, at.kv_len - 1})
    return int(at.rng.choice(places))


def normal(at: FamilyInput) -> tuple[Array, Array]:
    """Plain N(0, 1) logits and values: what everybody tests with."""
    return _noise(at), _random_values(at)


def spotlight(at: FamilyInput) -> tuple[Array, Array]:
    """Eight keys around a structural boundary carry the mass: off-by-one, skipped or repeated tokens."""
    logits, centre = _noise(at), _boundary(at)
    logits[max(0, centre - 4) : centre + 4] += 22.0
    return logits, _random_values(at)


def needle(at: FamilyInput) -> tuple[Array, Array]:
    """One key dominates by e^30 and its value row is its own: the output names the slot that was read."""
    logits = _noise(at, 0.5)
    logits[_boundary(at)] += 30.0
    return logits, _random_values(at)


def all_negative(at: FamilyInput) -> tuple[Array, Array]:
    """All logits near -30: a lane left at zero instead of minus infinity takes the whole softmax."""
    return _noise(at) - 30.0, _random_values(at)


def ascending(at: FamilyInput) -> tuple[Array, Array]:
    """Logits from -40 to 40 in order: the running maximum grows in every tile, so each rescale counts."""
    return np.linspace(-40.0, 40.0, at.kv_len), _random_values(at)


def huge(at: FamilyInput) -> tuple[Array, Array]:
    """All logits near +150: exp overflows float32 unless the maximum is subtracted, partials included."""
    return _noise(at) + 150.0, _random_values(at)


def one_hot(at: FamilyInput) -> tuple[Array, Array]:
    """One key leads by 200, so the output is that value row, bit for bit after rounding."""
    logits = _noise(at, 0.5) - 100.0
    logits[_boundary(at)] += 200.0
    return logits, _random_values(at)


def marker(at: FamilyInput) -> tuple[Array, Array]:
    """Uniform attention over one-hot values (position mod head_dim): each output counts tokens exactly."""
    values = np.zeros((at.kv_len, at.head_dim))
    positions = np.arange(at.kv_len)
    values[positions, positions % at.head_dim] = 1.0
    return np.zeros(at.kv_len), values


def constant_value(at: FamilyInput) -> tuple[Array, Array]:
    """All value rows equal: whatever the weights, a wrong normaliser shows and nothing else does."""
    return _noise(at, 3.0), np.tile(at.rng.normal(0.0, 1.0, at.head_dim), (at.kv_len, 1))


def cancelling_value(at: FamilyInput) -> tuple[Array, Array]:
    """Values alternate between +100 and -100: the sum is small, the terms are not."""
    signs = np.where(np.arange(at.kv_len) % 2 == 0, 100.0, -100.0)
    return _noise(at), signs[:, None] + at.rng.normal(0.0, 1.0, (at.kv_len, at.head_dim))


def window_edge(at: FamilyInput) -> tuple[Array, Array]:
    """The first key in a window leads by e^30, the last one outside would by e^60: off by one, either way."""
    logits, first = _noise(at, 0.5), at.first_visible
    logits[first] += 30.0
    if first:
        logits[first - 1] += 60.0
    return logits, _random_values(at)


def saturating(at: FamilyInput) -> tuple[Array, Array]:
    """Logits far beyond a soft cap on either side: capped ones tie, others do not."""
    reach = 4.0 * (at.soft_cap or 20.0)
    return np.where(at.rng.random(at.kv_len) < 0.5, -reach, reach) + _noise(at, 0.25 * reach), _random_values(
        at
    )


def waves(at: FamilyInput) -> tuple[Array, Array]:
    """Logits swell and fall over 232 keys: every split has a maximum of its own, and none is negligible."""
    return 3.0 * np.sin(np.arange(at.kv_len) / 37.0) + _noise(at, 0.3), _random_values(at)


def faint(at: FamilyInput) -> tuple[Array, Array]:
    """One key leads, many large values lie e^-6 to e^-16 below: weights that 16 bits round away add up."""
    logits = at.rng.uniform(-16.0, -6.0, at.kv_len)
    logits[_boundary(at)] = 0.0
    return logits, 30.0 * (1.0 + at.rng.random((at.kv_len, at.head_dim)))


def far_negative(at: FamilyInput) -> tuple[Array, Array]:
    """All logits near -30,000 and below: a finite number for minus infinity, such as -10,000, leads."""
    return _noise(at) - 30_000.0, _random_values(at)


def large_value(at: FamilyInput) -> tuple[Array, Array]:
    """Values at either end of the cache's range: a sum kept in 16 bits before it is normalised overflows."""
    signs = at.rng.choice([-1.0, 1.0], at.head_dim)
    return _noise(at), at.largest * signs * (1.0 - 0.25 * at.rng.random((at.kv_len, at.head_dim)))


def small_value(at: FamilyInput) -> tuple[Array, Array]:
    """Values below the cache's normal range: flushed to zero, or halved on the way, they are gone."""
    return _noise(at), 0.5 * at.smallest * _random_values(at)


FAMILIES: dict[str, Family] = {
    "normal": normal,
    "spotlight": spotlight,
    "needle": needle,
    "all-negative": all_negative,
    "ascending": ascending,
    "huge": huge,
    "one-hot": one_hot,
    "marker": marker,
    "constant-value": constant_value,
    "cancelling-value": cancelling_value,
    "window-edge": window_edge,
    "saturating": saturating,
    "waves": waves,
    "faint": faint,
    "far-negative": far_negative,
    "large-value": large_value,
    "small-value": small_value,
}
