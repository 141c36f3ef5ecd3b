# SPDX-License-Identifier: Apache-2.0
"""When requests arrive: all at once, at random, in bursts, or as a trace says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from pabench.errors import InvalidCase
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array
from pabench.workloads.requests import Requests
from pabench.workloads.specs import Kind, parse_spec

RATE = 1e-6
"""Lowest rate, requests a second; a rate of zero would never bring one."""

ARRIVALS: dict[str, Kind] = {
    "at-once": Kind(about="all at 0: the queue is never empty", defaults={}, least={}),
    "poisson": Kind(
        about="independent, at `rate` requests a second", defaults={"rate": 1.0}, least={"rate": RATE}
    ),
    "gamma": Kind(
        about="gaps of coefficient of variation `cv`: 1 is Poisson, 0 a clock, more are bursts",
        defaults={"rate": 1.0, "cv": 2.0},
        least={"rate": RATE},
    ),
    "on-off": Kind(
        about="Poisson at `rate` for `on` seconds, then nothing for `off` seconds",
        defaults={"rate": 4.0, "on": 10.0, "off": 30.0},
        least={"rate": RATE, "on": 1e-3},
    ),
    "trace": Kind(
        about="the times of the trace, times `scale` (0.5: twice the rate)",
        defaults={"scale": 1.0},
        least={"scale": 1e-6},
    ),
}

Gaps = Callable[[Mapping[str, float], int, np.random.Generator], Array]


def _gamma(p: Mapping[str, float], count: int, rng: np.random.Generator) -> Array:
    cv2 = p["cv"] ** 2
    if cv2 == 0.0:
        return np.arange(count) / p["rate"]
    # mean 1 / rate, variance (cv / rate)^2
    return np.cumsum(rng.gamma(1 / cv2, cv2 / p["rate"], count))


def _on_off(p: Mapping[str, float], count: int, rng: np.random.Generator) -> Array:
    busy = np.cumsum(rng.exponential(1 / p["rate"], count))
    return np.asarray(busy + np.floor(busy / p["on"]) * p["off"])


TIMES: dict[str, Gaps] = {
    "at-once": lambda p, count, rng: np.zeros(count),
    "poisson": lambda p, count, rng: np.cumsum(rng.exponential(1 / p["rate"], count)),
    "gamma": _gamma,
    "on-off": _on_off,
}


def with_arrivals(requests: Requests, spec: str, *, seed: int, timed: bool) -> Requests:
    """Return ``requests`` with the times of arrival that a spec says, seeded.

    Turns wait for the turn before whatever the spec; its times are the earliest.

    Args:
        requests: those of a trace carry its times.
        spec: ``name:key=value,...``, names of ``ARRIVALS``.
        seed: of what is drawn.
        timed: whether the requests have times of their own.

    Raises:
        UsageError: a bad spec, or ``trace`` for requests without times.
    """
    name, values = parse_spec("arrivals", spec, ARRIVALS)
    if name == "trace":
        if not timed:
            raise InvalidCase("arrivals", spec, f"must be another: {requests.name} has no times")
        scale, turns = values["scale"], requests.turns
        if turns is not None:
            turns = replace(turns, delay_s=turns.delay_s * scale)
        return replace(requests, arrival_s=requests.arrival_s * scale, turns=turns)
    whole_number("seed", seed, low=0, high=2**64 - 1)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xA221]))
    return replace(requests, arrival_s=np.asarray(TIMES[name](values, requests.num_requests, rng)))
