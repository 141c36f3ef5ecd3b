"""Stands for a backend that cannot be had here, so that each check it would be asked is named and left."""

from __future__ import annotations

from typing import Any

from pabench.errors import Unsupported
from pabench.problem.dtypes import DTYPES, Array
from pabench.problem.pool import KvPool
from pabench.problem.problem import FEATURES
from pabench.problem.profile import ComputeProfile
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import OPTIONAL, AttentionOutput, Capabilities


class AbsentBackend:
    """Declares everything, so that no test is left before it has named its check; computes nothing."""

    name = "absent"
    capabilities = Capabilities(
        dtypes=frozenset(DTYPES),
        operations=frozenset({"decode", "speculative", "prefill", "append", *OPTIONAL}),
        features=frozenset(FEATURES),
    )
    profile = ComputeProfile()

    def plan(self, tensors: Tensors) -> Any:
        """Refuse."""
        raise Unsupported("nothing is here to plan")

    def run(self, plan: Any) -> None:
        """Refuse."""
        raise Unsupported("nothing is here to run")

    def fetch(self, plan: Any) -> AttentionOutput:
        """Refuse."""
        raise Unsupported("nothing is here to fetch")

    def append(self, pool: KvPool, dtype: str, keys: Array, values: Array, slot_mapping: Array) -> Array:
        """Refuse."""
        raise Unsupported("nothing is here to append with")
