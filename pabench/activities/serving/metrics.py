# SPDX-License-Identifier: Apache-2.0
"""Figures of a run: latency as the user sees it, throughput, what preemption cost, where memory was.

Definitions, for a request that arrives at a and has its tokens at t_1 .. t_o:

* TTFT = t_1 - a; end to end = t_o - a; TPOT = (t_o - t_1) / (o - 1), undefined for one token;
* ITL = t_k - t_(k-1), over all tokens of all requests;
* normalised latency = mean over requests of (t_o - a) / o (Yu et al., OSDI 2022; Kwon et al., SOSP 2023);
* goodput = requests a second that keep every stated limit; the TPOT of one token counts as 0.

Each figure over requests is over those that were served to the end.  Shares of memory are averages over time
of the parts of ``MemorySplit``, external and idle apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pabench.activities.serving.records import Served
from pabench.activities.serving.transfers import TRANSFERS
from pabench.problem.dtypes import Array
from pabench.workloads.requests import Requests

PERCENTILES = (50, 90, 99)
PARTS = ("tokens", "reserved", "internal", "external", "idle")
COUNTED = (
    *("requests", "served", "skipped", "steps", "sequence_steps", "output_tokens", "preemptions"),
    *("recomputed_tokens", "recompute_overhead", "hit_tokens", "hit_rate", "copied_pages", "peak_batch"),
    *("peak_pages", "tokens_share", "reserved_share", "internal_share", "external_share", "idle_share"),
    *("pages_out", "pages_in", *TRANSFERS),
)
HOST = ("host_s", "allocator_ns", "sequence_steps_per_host_s")


def latency_columns(requests: Requests, served: Served) -> dict[str, Array]:
    """Return ``ttft_s``, ``tpot_s`` (NaN for one token), ``e2e_s`` and ``output`` of the requests served."""
    log = served.log.columns()
    done = np.flatnonzero(~np.isnan(log["finish_s"]))
    output, arrival = requests.output_tokens[done], served.arrival_s[done]
    first, finish = log["first_token_s"][done], log["finish_s"][done]
    gaps = np.maximum(output - 1, 1)
    return {
        "ttft_s": first - arrival,
        "tpot_s": np.where(output > 1, (finish - first) / gaps, np.nan),
        "e2e_s": finish - arrival,
        "output": output,
    }


def by_priority(requests: Requests, served: Served) -> list[dict[str, Any]]:
    """Return what became of each priority class, the most urgent first; nothing where there is one class."""
    if requests.priorities is None:
        return []
    columns, log = latency_columns(requests, served), served.log.columns()
    done, found = np.flatnonzero(~np.isnan(log["finish_s"])), []
    for priority in np.unique(requests.priorities).tolist():
        mine = columns["ttft_s"][requests.priorities[done] == priority]
        found.append(
            {
                "priority": priority,
                "requests": int((requests.priorities == priority).sum()),
                "served": mine.size,
                "preemptions": int(log["preemptions"][requests.priorities == priority].sum()),
                **{f"ttft_s_p{at}": float(np.percentile(mine, at)) if mine.size else None for at in (50, 99)},
            }
        )
    return found


def figures(
    requests: Requests,
    served: Served,
    *,
    gpus: int = 1,
    ttft_limit_s: float | None = None,
    tpot_limit_s: float | None = None,
) -> dict[str, Any]:
    """Return the figures of a run by name; None where nothing was there to count.

    Args:
        requests: what was asked.
        served: what came of it.
        gpus: throughput is divided by them.
        ttft_limit_s, tpot_limit_s: limits of goodput; None for none.
    """
    columns, log, steps = latency_columns(requests, served), served.log.columns(), served.steps
    done, span = columns["output"].size, float(steps["clock_s"][-1]) if served.steps_done else 0.0
    answers = requests.forks
    made = int(columns["output"].sum()) * answers
    decoded, prefilled = int(steps["decode_tokens"].sum()), int(steps["prefill_tokens"].sum())
    recomputed, hit = int(log["recomputed"].sum()), int(log["hit"].sum())
    good = columns["ttft_s"] <= (np.inf if ttft_limit_s is None else ttft_limit_s)
    good &= np.nan_to_num(columns["tpot_s"]) <= (np.inf if tpot_limit_s is None else tpot_limit_s)
    return {
        "requests": requests.num_requests,
        "served": int(done),
        "skipped": len(served.log.skipped),
        "steps": served.steps_done,
        "sequence_steps": decoded,
        "output_tokens": made,
        "span_s": span,
        "requests_per_s": done / span / gpus if span else None,
        "output_tokens_per_s": made / span / gpus if span else None,
        "total_tokens_per_s": (decoded + prefilled) / span / gpus if span else None,
        "goodput_per_s": float(good.sum()) / span / gpus if span else None,
        "normalised_latency_s": _mean(columns["e2e_s"] / np.maximum(columns["output"], 1)),
        **_spread("ttft_s", columns["ttft_s"]),
        **_spread("tpot_s", columns["tpot_s"]),
        **_spread("e2e_s", columns["e2e_s"]),
        **_gaps(served),
        "preemptions": int(log["preemptions"].sum()),
        "recomputed_tokens": recomputed,
        "recompute_overhead": recomputed / decoded if decoded else None,
        "hit_tokens": hit,
        "hit_rate": hit / (hit + prefilled) if hit + prefilled else None,
        "copied_pages": served.copies,
        "pages_out": served.moved_pages[0],
        "pages_in": served.moved_pages[1],
        **memory_figures(served.samples),
        "mean_batch": weighted(steps["running"], steps["step_s"]),
        "peak_batch": int(steps["running"].max(initial=0)),
        "peak_pages": int(steps["used_pages"].max(initial=0)),
        "host_s": served.host_s,
        "allocator_ns": sum(served.allocator_ns.values()),
        "sequence_steps_per_host_s": decoded / served.host_s if served.host_s else None,
    }


def provenance_of(names: Iterable[str], clock: str) -> dict[str, str]:
    """Return the provenance of each figure: counted, of the host's clock, or that of the virtual clock."""
    return {name: "counted" if name in COUNTED else "host" if name in HOST else clock for name in names}


def memory_figures(samples: Mapping[str, Array], *, skip: float = 0.0) -> dict[str, float | None]:
    """Return the mean shares of the pool that the parts hold, and the share that sharing saves.

    Args:
        samples: of a run.
        skip: share of the samples at either end that is left out, where the queue is not full.
    """
    rows = samples["tokens"].size
    kept = slice(int(rows * skip), rows - int(rows * skip))
    parts = {name: samples[name][kept] for name in PARTS}
    total = sum(float(values.sum()) for values in parts.values())
    shares: dict[str, float | None] = {
        f"{name}_share": float(values.sum()) / total if total else None for name, values in parts.items()
    }
    return shares


def weighted(values: Array, weights: Array) -> float | None:
    """Return the mean of ``values`` over time, or None without any."""
    total = float(weights.sum())
    return float((values * weights).sum()) / total if total else None


def _gaps(served: Served) -> dict[str, float | None]:
    """ITL: each step is the gap of the sequences that decode in it; preempted ones have longer ones."""
    steps = served.steps
    values = np.concatenate((steps["step_s"], served.gaps_s))
    counts = np.concatenate((steps["decode_tokens"], np.ones(served.gaps_s.size)))
    order = np.argsort(values)
    values, counts = values[order], np.cumsum(counts[order])
    if not counts.size or not counts[-1]:
        return {f"itl_s_p{at}": None for at in PERCENTILES}
    places = np.searchsorted(counts, np.array(PERCENTILES) / 100 * counts[-1])
    return {
        f"itl_s_p{at}": float(values[min(place, values.size - 1)])
        for at, place in zip(PERCENTILES, places.tolist(), strict=True)
    }


def _spread(name: str, values: Array) -> dict[str, float | None]:
    there = values[~np.isnan(values)]
    found: dict[str, float | None] = {f"{name}_mean": _mean(there)}
    for at in PERCENTILES:
        found[f"{name}_p{at}"] = float(np.percentile(there, at)) if there.size else None
    return found


def _mean(values: Array) -> float | None:
    return float(values.mean()) if values.size else None
