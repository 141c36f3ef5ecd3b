# SPDX-License-Identifier: Apache-2.0
"""The requests of a serving run: read from a trace, or drawn."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from pabench.activities.serving.config import ServingConfig
from pabench.activities.serving.schedulers import scheduler_by_name
from pabench.errors import UsageError
from pabench.workloads.arrivals import with_arrivals
from pabench.workloads.families import length_families, resolve_lengths
from pabench.workloads.prefixes import with_prefixes
from pabench.workloads.priorities import with_priorities
from pabench.workloads.requests import Requests, draw_requests, requests_of_trace

DEFAULT_REQUESTS = 1000
DEFAULT_LENGTHS, DEFAULT_OUTPUTS = "azure-conv", "fixed:len=128"
TOLD = ("block_tokens", "time_unit", "turns")
"""Fields of a configuration that say of a trace what it does not say itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests, and how they were asked for.

    Attributes:
        requests: in order of arrival.
        text: for people, and for the identity of a server.
    """

    requests: Requests
    text: str

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of lengths, arrivals and common beginnings."""
        requests, digest = self.requests, hashlib.sha256(str(self.requests.forks).encode())
        columns = [requests.prompt_tokens, requests.output_tokens, requests.arrival_s]
        if (shared := requests.segments) is not None:
            columns += [shared.ids, shared.tokens, shared.indptr, shared.output_ids]
        if requests.turns is not None:
            columns += [requests.turns.after, requests.turns.delay_s]
        if requests.priorities is not None:
            columns.append(requests.priorities)
        for column in columns:
            digest.update(np.ascontiguousarray(column).data)
        return digest.hexdigest()[:16]

    def longest(self, config: ServingConfig) -> int:
        """Return the tokens of the longest sequence that there may be."""
        if config.max_tokens is not None:
            return config.max_tokens
        final = self.requests.prompt_tokens + np.maximum(self.requests.output_tokens, 1) - 1
        final = final + scheduler_by_name(config.scheduler).ahead
        return max(1, min(int(final.max()), config.pool_slots))


def make_workload(config: ServingConfig) -> Workload:
    """Read or draw the requests of a run.

    Raises:
        UsageError: a spec or a file that is wrong.
    """
    requests, timed, notes = _requests(config)
    default = "trace" if timed and config.executor == "model" else "at-once"
    arrivals, texts = _given(config.arrivals, default), [requests.name, *notes]
    requests = with_arrivals(requests, arrivals, seed=config.seed, timed=timed)
    if config.prefixes is not None:
        requests = with_prefixes(requests, config.prefixes, seed=config.seed)
        texts.append(config.prefixes)
    requests = with_priorities(requests, config.priorities, seed=config.seed)
    if config.priorities:
        texts.append(f"priorities {','.join(f'{share:g}' for share in config.priorities)}")
    texts += [arrivals, f"{requests.num_requests} requests", f"seed {config.seed}"]
    return Workload(requests=requests, text=", ".join(texts))


def _requests(config: ServingConfig) -> tuple[Requests, bool, tuple[str, ...]]:
    """Requests before arrivals and prefixes, whether they come with times, and how a trace was read."""
    if config.trace is not None:
        from pabench.workloads.meaning import TraceOptions
        from pabench.workloads.traces import read_trace

        for name in ("lengths", "outputs"):
            if getattr(config, name) is not None:
                raise UsageError(f"--trace has its own lengths: leave --{name} out")
        trace = read_trace(config.trace, TraceOptions(**{name: getattr(config, name) for name in TOLD}))
        requests, notes = requests_of_trace(trace, count=config.count), trace.notes
        if requests.turns is not None:
            waiting = int((requests.turns.after >= 0).sum())
            notes += (f"closed loop ({waiting:,} of {requests.num_requests:,} wait for another)",)
        return requests, trace.timed, notes
    for name in TOLD:
        if getattr(config, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} {getattr(config, name)}: is for --trace alone")
    prompts, outputs = _given(config.lengths, DEFAULT_LENGTHS), config.outputs
    if f"{prompts}-output" in length_families():
        prompts, outputs = f"{prompts}-prompt", _given(outputs, f"{prompts}-output")
    drawn = resolve_lengths(prompts), resolve_lengths(_given(outputs, DEFAULT_OUTPUTS))
    return draw_requests(*drawn, count=config.count or DEFAULT_REQUESTS, seed=config.seed), False, ()


def _given(text: str | None, default: str) -> str:
    """An empty text is a spec that means nothing, not the default."""
    return default if text is None else text
