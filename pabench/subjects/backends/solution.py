# SPDX-License-Identifier: Apache-2.0
"""A Solution of FlashInfer Trace as a backend: its entry point is called as its Definition says.

The LSE of attention is in base 2, and turned into the natural log here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.exchange.definition import find_definition, root_of
from pabench.exchange.merge import StateMerge
from pabench.exchange.page_append import PageAppend
from pabench.exchange.paged import LSE, OUTPUT, PagedAttention
from pabench.exchange.solution import read_solution
from pabench.exchange.stated import stated
from pabench.problem.dtypes import FLOAT32
from pabench.problem.masks.sets import TOKENS
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.base import AttentionOutput, Backend, Capabilities
from pabench.subjects.backends.solution_cache import AppendSolution, MergeSolution
from pabench.subjects.backends.solution_call import PROFILE, SolutionBackend, SolutionCall, SolutionFunction
from pabench.subjects.backends.validate import check_attention

BOTH = frozenset({"decode", "speculative", "prefill"})


def solution_backend(name: str, path: Path, device: Device) -> Backend:
    """Return a solution as a backend.

    Args:
        name: in reports.
        path: of the solution, which lies in a trace set with its definition.
        device: where it runs.

    Raises:
        UsageError: the solution or its definition breaks a rule, or its code raises.
        Unsupported: the definition is of something else, or the language is not called.
    """
    solution = read_solution(path)
    definition = find_definition(root_of(path), solution.definition)
    meant = stated(definition)
    function = SolutionFunction(solution, definition, path, name, device)
    match meant:
        case PageAppend():
            return AppendSolution(name, meant, function, device)
        case StateMerge():
            return MergeSolution(name, meant, function, device)
        case PagedAttention():
            return AttentionSolution(name, meant, function, device)


class AttentionSolution(SolutionBackend):
    """Attention by calling a solution's entry point."""

    def __init__(
        self, name: str, attention: PagedAttention, function: SolutionFunction, device: Device
    ) -> None:
        super().__init__(name, function)
        self._attention = attention
        only = attention.shape
        features = {"latent-cache"} if only.latent else {"head-dim-v"} if only.head_dim_v else set()
        features |= {"fp8-kv"} if attention.kv_dtype else set()
        features |= {TOKENS} if attention.listed is not None else set()
        free = set() if only.causal else {"non-causal"}
        self.capabilities = Capabilities(
            dtypes=frozenset({attention.dtype}),
            devices=frozenset({device.name}),
            operations=BOTH if attention.prefill else frozenset({"decode"}),
            kv_layouts=frozenset({"NHD"}),
            interleaved=False,
            features=frozenset(features | free),
            requires=frozenset(features),
            lse=attention.lse,
            only=only,
            rule=attention.why_not,
            # a definition says nothing of what is refused
            validates=False,
        )
        self.profile = PROFILE

    def plan(self, tensors: Tensors) -> SolutionCall:
        """Upload the inputs, and outputs full of NaN."""
        check_attention(self.name, self.capabilities, tensors)
        attention = self._attention
        given = attention.arguments(tensors)
        dtypes = {name: attention.stored(name).name for name in given if name not in attention.tables}
        return self._function.prepared(given, dtypes, attention.outputs(len(tensors.q)))

    def run(self, plan: SolutionCall) -> None:
        """Call the entry point."""
        self._function.call(plan)

    def fetch(self, plan: SolutionCall) -> AttentionOutput:
        """Copy the outputs to the host; the judge looks at their shapes and types."""
        found = self._function.result(plan)
        return AttentionOutput(out=found[OUTPUT], lse=natural_log(found.get(LSE)))


def natural_log(lse: Any) -> Any:
    """Return an LSE of base 2 as natural log, rounded once; what is no float32 array as it is."""
    if not isinstance(lse, np.ndarray) or lse.dtype != FLOAT32.storage:
        return lse
    return (lse.astype(np.float64) * math.log(2.0)).astype(np.float32)
