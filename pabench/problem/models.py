# SPDX-License-Identifier: Apache-2.0
"""Shapes of a few language models, for bytes per token and weight traffic."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What a model's cache and weights weigh.

    Attributes:
        name: short name, as given on the command line.
        title: full name.
        num_layers: layers that keep a cache.
        num_qo_heads: query heads.
        num_kv_heads: KV heads; 0 for a latent cache.
        head_dim: elements of a head.
        latent_dim: numbers of a token and layer in a latent cache (MLA: compressed KV and the rotary part);
            0 where keys and values are kept.
        window_layers: of the layers, those that keep the last ``window`` tokens only (or those of a chunk).
        window: tokens; 0 for none.
        index_bytes: bytes of a token and layer that a sparse attention keeps to choose tokens by.
        state_bytes: bytes of a sequence of any length: states of linear attention and of convolutions.
        parameters: all of them, experts included: a large batch reads every expert.
        stored_bytes: weights of the checkpoint as stored; 0 where that is not known.
        source: where the figures come from.
    """

    name: str
    title: str
    num_layers: int
    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    latent_dim: int = 0
    window_layers: int = 0
    window: int = 0
    index_bytes: int = 0
    state_bytes: int = 0
    parameters: float = 0.0
    stored_bytes: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        for field in ("num_layers", "num_qo_heads", "head_dim"):
            whole_number(field, getattr(self, field), low=1)
        for field in ("num_kv_heads", "latent_dim", "window", "index_bytes"):
            whole_number(field, getattr(self, field), low=0)
        whole_number("state_bytes", self.state_bytes, low=0, high=2**40)
        whole_number("window_layers", self.window_layers, low=0, high=self.num_layers)
        if (self.window_layers == 0) != (self.window == 0):
            raise InvalidCase("window", self.window, "must be 0 exactly where there are no window_layers")
        if (self.num_kv_heads == 0) == (self.latent_dim == 0):
            raise InvalidCase(
                "num_kv_heads", self.num_kv_heads, "must be 0 exactly where there is a latent_dim"
            )
        if self.num_kv_heads and self.num_qo_heads % self.num_kv_heads:
            raise InvalidCase("num_qo_heads", self.num_qo_heads, "must be a multiple of num_kv_heads")

    def copies(self, gpus: int) -> Fraction:
        """Return how often each number of the cache is held by GPUs under tensor parallelism.

        A latent cache is held by each of them, and a KV head by more than one where they are more.
        """
        whole_number("gpus", gpus, low=1)
        heads = self.num_kv_heads or 1
        return Fraction(-(-heads // gpus) * gpus, heads)

    def layer_bytes(self, itemsize: int, *, gpus: int = 1) -> int:
        """Return bytes of cache a token and layer over all GPUs: ``2 num_kv_heads head_dim itemsize``.

        A latent cache holds one vector in place of K and V: ``latent_dim itemsize``.
        """
        size = whole_number("itemsize", itemsize, low=1)
        numbers = self.latent_dim or 2 * self.num_kv_heads * self.head_dim
        return int((numbers * size + self.index_bytes) * self.copies(gpus))

    def token_bytes(self, itemsize: int, *, gpus: int = 1) -> int:
        """Return bytes of cache a token over all layers and GPUs, those of a window included."""
        return self.num_layers * self.layer_bytes(itemsize, gpus=gpus)

    def held_bytes(self, kv_lens: Array, page_size: int, itemsize: int, *, gpus: int = 1) -> Array:
        """Return bytes that sequences hold in whole pages, float64.

        A layer with a window holds the pages that its last ``window`` tokens lie in at worst,
        ``ceil((window - 1) / page_size) + 1``.  States are divided among GPUs.
        """
        pages = -(-np.asarray(kv_lens, np.int64) // whole_number("page_size", page_size, low=1))
        layers = (self.num_layers - self.window_layers) * pages
        if self.window_layers:
            kept = -(-(self.window - 1) // page_size) + 1
            layers = layers + self.window_layers * np.minimum(pages, kept)
        each = page_size * self.layer_bytes(itemsize, gpus=gpus)
        return np.asarray(layers * float(each) + self.state_bytes * (pages > 0))
