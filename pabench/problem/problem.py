"""What attention is computed: heads, head dimension, page size, storage type, mask and scale."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from pabench.errors import InvalidCase
from pabench.problem.checks import finite_number, whole_number
from pabench.problem.dtypes import DType, dtype_by_name

MAX_HEAD_DIM = 1024
MAX_SCALE = 2**20
"""Beyond it, either way, no 16-bit queries and keys reach the logits that the input families ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The part of an attention call that does not depend on the batch.

    Attributes:
        num_qo_heads: query (and output) heads; a multiple of ``num_kv_heads``.
        num_kv_heads: heads of the KV cache; query head ``h`` reads KV head ``h // group_size``.
        head_dim: elements of one head's vector.
        page_size: tokens of one page.
        dtype: storage type of queries, cache and output.
        causal: a query row sees the keys up to its own position, aligned at the bottom right.
        sm_scale: factor on the dot products; ``None`` means ``1 / sqrt(head_dim)``.
    """

    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    page_size: int
    dtype: str = "float32"
    causal: bool = True
    sm_scale: float | None = None

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

    @property
    def group_size(self) -> int:
        """Query heads that share one KV head: 1 is MHA, ``num_qo_heads`` is MQA, between is GQA."""
        return self.num_qo_heads // self.num_kv_heads

    @property
    def scale(self) -> float:
        """The softmax scale in effect."""
        return 1.0 / math.sqrt(self.head_dim) if self.sm_scale is None else self.sm_scale

    @property
    def storage(self) -> DType:
        """The storage type, resolved."""
        return dtype_by_name(self.dtype)

    @property
    def token_bytes(self) -> int:
        """Bytes that one token takes in the cache of one layer: K and V of every KV head."""
        return 2 * self.num_kv_heads * self.head_dim * self.storage.itemsize

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)
