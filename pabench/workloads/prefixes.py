# SPDX-License-Identifier: Apache-2.0
"""Common beginnings of synthetic prompts, and answers that fork from one prompt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.dtypes import Array
from pabench.workloads.requests import Requests
from pabench.workloads.specs import Kind, parse_spec
from pabench.workloads.structure import Segments

PREFIXES: dict[str, Kind] = {
    "none": Kind(about="nothing in common", defaults={}, least={}),
    "system": Kind(
        about="one system prompt of `tokens` before every prompt",
        defaults={"tokens": 512},
        least={"tokens": 1},
        whole=frozenset({"tokens"}),
    ),
    "groups": Kind(
        about="one of `count` beginnings of `tokens`; the k-th most frequent has weight k^-s",
        defaults={"count": 64, "tokens": 1024, "s": 1.0},
        least={"count": 1, "tokens": 1},
        whole=frozenset({"count", "tokens"}),
    ),
    "multi-turn": Kind(
        about="conversations of `turns`: a prompt is all that was said before, and the drawn tokens",
        defaults={"turns": 4},
        least={"turns": 1},
        whole=frozenset({"turns"}),
    ),
    "fork": Kind(
        about="`n` answers to each prompt, each of the drawn length (parallel sampling)",
        defaults={"n": 2},
        least={"n": 1},
        whole=frozenset({"n"}),
    ),
}


def with_prefixes(requests: Requests, spec: str, *, seed: int) -> Requests:
    """Return ``requests`` with the structure that a spec says; what is put before a prompt makes it longer.

    Raises:
        UsageError: a bad spec, or requests of a trace that has common beginnings of its own.
    """
    name, values = parse_spec("prefixes", spec, PREFIXES)
    if name == "none":
        return replace(requests, segments=None)
    if name == "fork":
        return replace(requests, forks=int(values["n"]))
    if requests.segments is not None:
        raise InvalidCase("prefixes", spec, f"must be none or fork: {requests.name} has its own")
    if name == "multi-turn":
        return _conversations(requests, int(values["turns"]))
    size = requests.num_requests
    groups = np.zeros(size, np.int64)
    if name == "groups":
        rng = np.random.default_rng(np.random.SeedSequence([seed, 0x6209]))
        weights = np.cumsum(np.arange(1, int(values["count"]) + 1, dtype=np.float64) ** -values["s"])
        groups = np.searchsorted(weights, rng.random(size) * weights[-1], side="right").astype(np.int64)
    return replace(
        requests,
        prompt_tokens=requests.prompt_tokens + int(values["tokens"]),
        segments=Segments(
            ids=groups,
            tokens=np.full(size, int(values["tokens"]), np.int64),
            indptr=np.arange(size + 1),
            output_ids=np.full(size, -1, np.int64),
        ),
    )


def _conversations(requests: Requests, turns: int) -> Requests:
    """Turn t of conversation c is request ``t C + c`` of C conversations, so that turns lie far apart."""
    size = requests.num_requests
    count = -(-size // turns)
    index = np.arange(size)
    conversation, turn = index % count, index // count
    # what each turn adds: the user's tokens under an even id, the answer under the odd one behind it
    added = np.stack((requests.prompt_tokens, requests.output_tokens), axis=1)
    before = np.zeros(size, np.int64)
    for at in range(1, int(turn[-1]) + 1):
        now = index[turn == at]
        before[now] = before[now - count] + added[now - count].sum(axis=1)
    runs = 2 * turn + 1
    indptr = np.concatenate(([0], np.cumsum(runs)))
    place = np.arange(indptr[-1]) - np.repeat(indptr[:-1], runs)
    said_by = (place // 2) * count + np.repeat(conversation, runs)
    ids: Array = 2 * said_by + place % 2
    return replace(
        requests,
        prompt_tokens=before + requests.prompt_tokens,
        segments=Segments(ids=ids, tokens=added[said_by, place % 2], indptr=indptr, output_ids=2 * index + 1),
    )
