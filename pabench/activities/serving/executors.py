# SPDX-License-Identifier: Apache-2.0
"""What a step costs: nothing, or what a model of a GPU says; the kernel executor is in ``kernel.py``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from pabench.problem.checks import finite_number
from pabench.problem.models import ModelShape
from pabench.problem.step_time import StepModel


class StepWork(NamedTuple):
    """What one step computes.

    Attributes:
        step: number of the step, from 1 on.
        decodes: sequences that get one token.
        context_tokens: cached tokens that those read, their new ones included.
        prefills: (new tokens, tokens before them) of each prompt or chunk.
        swapped_tokens: tokens that move to the swap store or back.
    """

    step: int
    decodes: int
    context_tokens: int
    prefills: tuple[tuple[int, int], ...] = ()
    swapped_tokens: int = 0


class Executor(Protocol):
    """Tells the virtual clock how long a step takes.

    Attributes:
        name: for the records.
        provenance: word for figures in seconds; ``counted`` where the clock only counts steps.
    """

    name: str
    provenance: str

    def step(self, work: StepWork) -> float:
        """Return the seconds that a step takes."""


class NullExecutor:
    """Every step takes the same time; what is left is the work of scheduler and allocator."""

    name = "null"
    provenance = "counted"

    def __init__(self, step_s: float = 1.0) -> None:
        self._step_s = finite_number("step_s", step_s, low=1e-9)

    def step(self, work: StepWork) -> float:
        """See ``Executor``."""
        return self._step_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Constants of a modelled step, beside those of the decode.

    Attributes:
        tflops: peak of the GPUs together, 10^12 operations a second.
        swap_gbps: between pool and swap store, 10^9 bytes a second.
    """

    tflops: float
    swap_gbps: float = 25.0

    def __post_init__(self) -> None:
        finite_number("tflops", self.tflops, low=1e-6)
        finite_number("swap_gbps", self.swap_gbps, low=1e-6)


class ModelExecutor:
    """Decode time of ``problem/step_time.py``; prompts at the peak of the GPU, read while weights are.

    A prompt of c tokens behind h costs ``2 W c`` operations for W parameters and, in each layer,
    ``4 H d c (h + (c + 1) / 2)`` for H query heads of d.  The step takes the longer of its memory time and
    its compute time, as in a roofline.
    """

    name = "model"
    provenance = "modelled"

    def __init__(self, step: StepModel, *, page_size: int, model: ModelShape, machine: Machine) -> None:
        # step_s is affine in the batch and in the mean length, so two points give its slopes
        one = replace(step, mean_tokens=1.0).step_s(1, page_size)
        two = replace(step, mean_tokens=2.0).step_s(1, page_size)
        self._fixed_s = step.step_s(0, page_size)
        self._token_s = two - one
        self._sequence_s = one - self._fixed_s - self._token_s
        self._constant_s = step.fixed_cost_s
        self._linear_s = 2 * model.parameters / (machine.tflops * 1e12)
        heads = 4 * model.num_layers * model.num_qo_heads * model.head_dim
        self._attention_s = heads / (machine.tflops * 1e12)
        self._swap_s = step.token_bytes / (machine.swap_gbps * 1e9)

    def step(self, work: StepWork) -> float:
        """See ``Executor``."""
        n, tokens = work.decodes, work.context_tokens
        memory = self._fixed_s + n * self._sequence_s + tokens * self._token_s
        compute = self._constant_s + n * self._linear_s + tokens * self._attention_s
        for new, before in work.prefills:
            compute += new * (self._linear_s + self._attention_s * (before + (new + 1) / 2))
        return max(memory, compute) + work.swapped_tokens * self._swap_s
