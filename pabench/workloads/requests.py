# SPDX-License-Identifier: Apache-2.0
"""Requests of a serving run as columns: lengths, times of arrival, and which prompts begin alike."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array
from pabench.problem.lengths import MAX_LENGTH, LengthSpec
from pabench.workloads.structure import Segments, Turns
from pabench.workloads.traces import Trace

OUTPUT_SEED = 2**63
"""Set in the seed of the outputs, so that two columns drawn from one spec are independent."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requests:
    """A workload, in order of arrival.

    Attributes:
        name: for people.
        prompt_tokens, output_tokens: int64 ``(n,)``.
        arrival_s: float64 ``(n,)``, never decreases, from 0 on; of a turn that waits, the earliest.
        segments: which prompts begin alike; None when none do.
        turns: which requests wait for the end of others; None when none does.
        forks: sequences that go on from each prompt (parallel sampling); 1 for one answer.
        priorities: class of each request, int64 ``(n,)``, 0 for the most urgent; None where all are alike.
    """

    name: str
    prompt_tokens: Array
    output_tokens: Array
    arrival_s: Array = field(default_factory=lambda: np.empty(0))
    segments: Segments | None = None
    turns: Turns | None = None
    forks: int = 1
    priorities: Array | None = None

    def __post_init__(self) -> None:
        size = self.prompt_tokens.size
        if not size:
            raise InvalidCase("requests", self.name, "must be at least one")
        if not self.arrival_s.size:
            object.__setattr__(self, "arrival_s", np.zeros(size))
        for column in ("prompt_tokens", "output_tokens", "arrival_s"):
            if getattr(self, column).shape != (size,):
                raise InvalidCase(column, getattr(self, column).shape, f"must have shape ({size},)")
        if self.priorities is not None and self.priorities.shape != (size,):
            raise InvalidCase("priorities", self.priorities.shape, f"must have shape ({size},)")
        longest = int((self.prompt_tokens + self.output_tokens).max())
        if longest > MAX_LENGTH:
            raise InvalidCase("requests", longest, f"must have at most {MAX_LENGTH} tokens each")
        whole_number("forks", self.forks, low=1, high=64)

    @property
    def num_requests(self) -> int:
        """Requests in the workload."""
        return int(self.prompt_tokens.size)


def requests_of_trace(trace: Trace, *, count: int | None = None) -> Requests:
    """Return the first ``count`` requests of a trace, with its times and its common beginnings."""
    size = trace.num_requests if count is None else min(count, trace.num_requests)
    return Requests(
        name=trace.name,
        prompt_tokens=trace.prompt_tokens[:size],
        output_tokens=trace.output_tokens[:size],
        arrival_s=trace.arrival_s[:size],
        segments=None if trace.segments is None else trace.segments.first(size),
        turns=None if trace.turns is None else trace.turns.first(size),
    )


def draw_requests(prompts: LengthSpec, outputs: LengthSpec, *, count: int, seed: int) -> Requests:
    """Return ``count`` requests at time 0, prompt and output lengths drawn independently.

    A list of lengths is gone through again and again.
    """
    whole_number("requests", count, low=1, high=10**8)
    columns = []
    for spec, own_seed in ((prompts, seed), (outputs, seed | OUTPUT_SEED)):
        drawn = np.asarray(spec.draw(count, seed=own_seed, page_size=1), np.int64)
        if not drawn.size:
            raise InvalidCase("lengths", spec.text, "must be at least one")
        columns.append(np.resize(drawn, count))
    return Requests(
        name=f"{prompts.text} -> {outputs.text}", prompt_tokens=columns[0], output_tokens=columns[1]
    )


def prompt_tokens_of(requests: Requests, index: int, *, extra: int = 0) -> tuple[int, ...]:
    """Return token ids of a prompt, and of ``extra`` tokens of its output behind it.

    Equal beginnings have equal ids, unlike ones differ in every page of more than a few tokens.
    """
    total, parts = int(requests.prompt_tokens[index]), []
    segments, own = requests.segments, -1 - index
    if segments is not None:
        run = slice(int(segments.indptr[index]), int(segments.indptr[index + 1]))
        for name, tokens in zip(segments.ids[run].tolist(), segments.tokens[run].tolist(), strict=True):
            parts.append(_ids(name, tokens))
    known = sum(part.size for part in parts)
    parts.append(_ids(own, max(0, total - known)))
    if extra:
        output = -1 if segments is None else int(segments.output_ids[index])
        parts.append(_ids(output if output >= 0 else own - requests.num_requests, extra))
    return tuple(np.concatenate(parts).tolist())


def _ids(name: int, tokens: int) -> Array:
    """Token ids below 2^31 that depend on name and place alone: a multiplicative hash of both."""
    place = np.arange(tokens, dtype=np.uint64) + np.uint64((name * 0x9E3779B97F4A7C15) % 2**64)
    mixed = place * np.uint64(0xD1342543DE82EF95)
    return np.asarray((mixed >> np.uint64(33)).astype(np.int64))
