# SPDX-License-Identifier: Apache-2.0
"""What attention is computed: heads, head dimension, page size, storage type, mask and scale."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.checks import finite_number, numbers_tuple, one_of, whole_number
from pabench.problem.dtypes import E4M3, Array, DType, decode, dtype_by_name, encode
from pabench.problem.formats import FORMATS, CacheFormat

MAX_HEAD_DIM = 1024
MAX_SCALE = 2**20
"""Beyond it, either way, no 16-bit queries and keys reach the logits that the input families ask for."""


FEATURES = ("soft-cap", "window", "alibi", "sinks", "fp8-kv", "non-causal")
"""What a problem may ask for beyond plain attention; a backend declares those it has."""

CACHE_FEATURES = ("head-dim-v", "latent-cache", "page-gaps", "kv-strides")
"""How a cache may lie beyond K and V alike, page behind page; a backend declares those it takes."""

SCALE_FEATURES = ("fp8-q", "sequence-scales")
"""Queries of e4m3, and scales of each sequence and KV head; a backend declares those it takes."""

QUERY_TYPES = {E4M3.name: E4M3}
"""Types of queries beside that of the output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The part of an attention call that does not depend on the batch.

    Attributes:
        num_qo_heads: query (and output) heads; a multiple of ``num_kv_heads``.
        num_kv_heads: heads of the KV cache; query head ``h`` reads KV head ``h // group_size``.
        head_dim: elements of one head's query and key.
        page_size: tokens of one page.
        dtype: storage type of queries, cache and output, as far as nothing else is said of them.
        causal: a query row sees the keys up to its own position, aligned at the bottom right.
        sm_scale: factor on the dot products; ``None`` means ``1 / sqrt(head_dim)``.
        soft_cap: a scaled dot product x becomes ``soft_cap * tanh(x / soft_cap)``, before bias and mask.
        window: a query row sees at most the last ``window`` keys up to its own position, that one included.
        alibi_slopes: one number per query head; ``slope * (key position - query position)`` is added.
        sinks: one logit per query head that takes part in the softmax and has no value: it is in the sum of
            weights and in the LSE, and adds nothing to the output.
        kv_dtype: name of the cache's format, see ``formats``; ``None`` when it is stored as ``dtype``.
        k_scale: what a stored key is multiplied by, in a format that has such scales: one number, or one per
            KV head.
        v_scale: likewise for values.
        q_dtype: type of the queries, of ``QUERY_TYPES``; ``None`` when it is ``dtype``.
        q_scale: what a stored query of such a type is multiplied by: one number, or one per KV head.
        head_dim_v: elements of one head's value and output; ``None`` when they are ``head_dim``.
        latent: the cache holds one vector a token, the key of a single KV head, whose first ``head_dim_v``
            numbers are the value (multi-head latent attention, absorbed; DeepSeek-AI, "DeepSeek-V2", 2024,
            section 2.1).  ``sm_scale`` must be given, since it does not follow from the length of such a key.
    """

    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    dtype: str = "float32"
    causal: bool = True
    sm_scale: float | None = None
    soft_cap: float | None = None
    window: int | None = None
    alibi_slopes: tuple[float, ...] | None = None
    sinks: tuple[float, ...] | None = None
    kv_dtype: str | None = None
    k_scale: tuple[float, ...] | None = None
    v_scale: tuple[float, ...] | None = None
    head_dim_v: int | None = None
    latent: bool = False
    q_dtype: str | None = None
    q_scale: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for field, high in (("num_qo_heads", 2**16), ("num_kv_heads", 2**16), ("head_dim", MAX_HEAD_DIM)):
            object.__setattr__(self, field, whole_number(field, getattr(self, field), low=1, high=high))
        object.__setattr__(self, "page_size", whole_number("page_size", self.page_size, low=1, high=2**20))
        if self.num_qo_heads % self.num_kv_heads:
            rule = f"must be a multiple of num_kv_heads = {self.num_kv_heads}"
            raise InvalidCase("num_qo_heads", self.num_qo_heads, rule)
        dtype_by_name(self.dtype)
        if not isinstance(self.causal, bool):
            raise InvalidCase("causal", self.causal, "must be true or false")
        if self.sm_scale is not None:
            scale = finite_number("sm_scale", self.sm_scale)
            if scale and not 1 / MAX_SCALE <= abs(scale) <= MAX_SCALE:
                rule = f"must be 0, or in size between 1/{MAX_SCALE} and {MAX_SCALE}"
                raise InvalidCase("sm_scale", self.sm_scale, rule)
            object.__setattr__(self, "sm_scale", scale)
        self._check_values()
        self._check_semantics()

    def _check_values(self) -> None:
        """Raise unless the values have a length, and a latent cache can hold them."""
        if not isinstance(self.latent, bool):
            raise InvalidCase("latent", self.latent, "must be true or false")
        if self.head_dim_v is not None:
            size = whole_number("head_dim_v", self.head_dim_v, low=1, high=MAX_HEAD_DIM)
            # one spelling of each problem, so that it has one id
            object.__setattr__(self, "head_dim_v", None if size == self.head_dim else size)
        if not self.latent:
            return
        if self.value_dim > self.head_dim:
            rule = f"must be at most head_dim = {self.head_dim}: values of a latent cache lie in its keys"
            raise InvalidCase("head_dim_v", self.head_dim_v, rule)
        if self.num_kv_heads != 1:
            rule = "must be 1 with a latent cache: it holds one vector a token"
            raise InvalidCase("num_kv_heads", self.num_kv_heads, rule)
        if self.sm_scale is None:
            rule = "must be given with a latent cache: it is that of the heads before absorption"
            raise InvalidCase("sm_scale", self.sm_scale, rule)
        if self.v_scale is not None:
            rule = "must be None with a latent cache: its values are keys, and have k_scale"
            raise InvalidCase("v_scale", self.v_scale, rule)

    def _check_semantics(self) -> None:
        if self.soft_cap is not None:
            cap = finite_number("soft_cap", self.soft_cap, low=1 / MAX_SCALE, high=MAX_SCALE)
            object.__setattr__(self, "soft_cap", cap)
        if self.window is not None:
            object.__setattr__(self, "window", whole_number("window", self.window, low=1))
        for field in ("alibi_slopes", "sinks"):
            self._set_numbers(field, lengths=(self.num_qo_heads,), low=-MAX_SCALE)
        if self.kv_dtype is not None:
            one_of("kv_dtype", self.kv_dtype, FORMATS)
        if self.q_dtype is not None:
            one_of("q_dtype", self.q_dtype, QUERY_TYPES)
        elif self.q_scale is not None:
            rule = f"needs q_dtype = one of {', '.join(QUERY_TYPES)}"
            raise InvalidCase("q_scale", self.q_scale, rule)
        self._set_numbers("q_scale", lengths=(1, self.num_kv_heads), low=1 / MAX_SCALE)
        for field in ("k_scale", "v_scale"):
            if getattr(self, field) is not None and not (self.kv_format and self.kv_format.tensor_scale):
                having = ", ".join(row.name for row in FORMATS.values() if row.tensor_scale)
                raise InvalidCase(field, getattr(self, field), f"needs kv_dtype = one of {having}")
            self._set_numbers(field, lengths=(1, self.num_kv_heads), low=1 / MAX_SCALE)

    def _set_numbers(self, field: str, *, lengths: tuple[int, ...], low: float) -> None:
        given = getattr(self, field)
        if given is not None:
            numbers = numbers_tuple(field, given, lengths=lengths, low=low, high=MAX_SCALE)
            object.__setattr__(self, field, numbers)

    @property
    def group_size(self) -> int:
        """Query heads that share one KV head: 1 is MHA, ``num_qo_heads`` is MQA, between is GQA."""
        return self.num_qo_heads // self.num_kv_heads

    @property
    def scale(self) -> float:
        """The softmax scale in effect."""
        return 1.0 / math.sqrt(self.head_dim) if self.sm_scale is None else self.sm_scale

    @property
    def value_dim(self) -> int:
        """Elements of one head's value and output, resolved."""
        return self.head_dim if self.head_dim_v is None else self.head_dim_v

    @property
    def storage(self) -> DType:
        """The storage type of the output, and of queries without one of their own, resolved."""
        return dtype_by_name(self.dtype)

    @property
    def q_storage(self) -> DType:
        """The type of the queries, resolved."""
        return self.storage if self.q_dtype is None else QUERY_TYPES[self.q_dtype]

    @property
    def q_scales(self) -> tuple[float, ...]:
        """What stored queries of each KV head are multiplied by."""
        scales = self.q_scale or (1.0,)
        return scales if len(scales) == self.num_kv_heads else scales * self.num_kv_heads

    def takes_scale(self, kind: str) -> bool:
        """Return whether queries (``q``), keys (``k``) or values (``v``) have scales beside them."""
        if kind == "q":
            return self.q_dtype is not None
        return (
            self.kv_format is not None and self.kv_format.tensor_scale and not (self.latent and kind == "v")
        )

    @property
    def kv_format(self) -> CacheFormat | None:
        """The format of the cache; None when it is stored as queries and output are."""
        return None if self.kv_dtype is None else FORMATS[self.kv_dtype]

    @property
    def kv_storage(self) -> DType:
        """The type of the cache's numbers, resolved."""
        return self.storage if self.kv_format is None else self.kv_format.numbers

    def row_units(self, kind: str) -> int:
        """Return the elements of the cache that a key (``k``) or value (``v``) of one head takes.

        In a latent cache whose rows have scales of their own a value is the whole row, since its scales lie
        behind all numbers of the key.
        """
        dim = self.head_dim if kind == "k" else self.value_dim
        if self.kv_format is None:
            return dim
        whole = self.latent and self.kv_format.scale is not None
        return self.kv_format.row_units(self.head_dim if whole else dim)

    def encode_queries(self, numbers: Array) -> Array:
        """Round numbers, divided by their scales, to what queries are stored as."""
        if self.q_dtype is None:
            return encode(numbers, self.storage)
        return encode(np.clip(numbers, -self.q_storage.maximum, self.q_storage.maximum), self.q_storage)

    def encode_rows(self, numbers: Array) -> Array:
        """Round numbers ``(..., dim)``, divided by their scales, to rows ``(..., row_units)``."""
        return encode(numbers, self.storage) if self.kv_format is None else self.kv_format.encode(numbers)

    def decode_rows(self, stored: Array, kind: str) -> Array:
        """Return the numbers ``(..., dim)`` of rows ``(..., row_units)``, without ``kv_scales``, exactly."""
        if self.kv_format is None:
            return decode(stored, self.storage)
        if self.kv_format.scale is None:
            return decode(stored, self.kv_format.numbers)
        dim = self.head_dim if kind == "k" or self.latent else self.value_dim
        return self.kv_format.decode(stored, dim)[..., : self.value_dim if kind == "v" else dim]

    def values_of(self, keys: Array) -> Array:
        """Return the values that lie in rows of keys of a latent cache."""
        return keys[..., : self.row_units("v")]

    def kv_scales(self, kind: str) -> tuple[float, ...]:
        """Return what stored keys (``kind="k"``) or values (``"v"``) of each KV head are multiplied by."""
        scales = (self.k_scale if kind == "k" or self.latent else self.v_scale) or (1.0,)
        return scales if len(scales) == self.num_kv_heads else scales * self.num_kv_heads

    @property
    def features(self) -> frozenset[str]:
        """Those of ``FEATURES``, ``CACHE_FEATURES`` and the formats that the problem asks for."""
        asked = {
            "soft-cap": self.soft_cap is not None,
            "window": self.window is not None,
            "alibi": self.alibi_slopes is not None,
            "sinks": self.sinks is not None,
            "non-causal": not self.causal,
            "head-dim-v": self.head_dim_v is not None and not self.latent,
            "latent-cache": self.latent,
            "fp8-q": self.q_dtype is not None,
            **({} if self.kv_format is None else {self.kv_format.feature: True}),
        }
        return frozenset(name for name, present in asked.items() if present)

    @property
    def token_bytes(self) -> int:
        """Bytes that one token takes in the cache of one layer: K and V of every KV head."""
        units = self.row_units("k") + (0 if self.latent else self.row_units("v"))
        return self.num_kv_heads * units * self.kv_storage.itemsize

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values.

        A feature that is not asked for has no field, so that problems without it keep their ids.
        """
        found = {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }
        return {name: value for name, value in found.items() if value or name not in OPTIONAL_FIELDS}


OPTIONAL_FIELDS = frozenset(
    field.name
    for field in fields(Problem)
    if (field.default is None or field.default is False) and field.name != "sm_scale"
)
"""Fields that JSON leaves out when they are ``None`` or false."""
