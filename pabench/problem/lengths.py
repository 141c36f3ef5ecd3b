# SPDX-License-Identifier: Apache-2.0
"""Length families: how many cached tokens the sequences of a batch have.

A spec reads ``name`` or ``name:key=value,...``; ``list:100,250,17`` gives the lengths themselves.
A family is drawn with a seed, and the same seed gives the same lengths whatever the page size, so that page
sizes can be compared (the two families built on page edges, which follow the page size, excepted).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from pabench.errors import InvalidCase, UnknownName, UsageError
from pabench.problem.checks import INT32_MAX, finite_number, lengths_tuple, whole_number
from pabench.problem.dtypes import Array

MAX_LENGTH = 2**24
"""Longest sequence a family may draw, in tokens; longer ones are almost certainly a typo."""

MAX_DIGITS = 18
"""Digits of a whole number worth reading; Python refuses to convert thousands of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthRequest:
    """What a sampler is told besides its parameters."""

    batch: int
    page_size: int
    rng: np.random.Generator


Sampler = Callable[[Mapping[str, float], LengthRequest], Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthFamily:
    """A named distribution with default parameters."""

    name: str
    about: str
    defaults: Mapping[str, float]
    sampler: Sampler
    whole: frozenset[str] = field(default_factory=frozenset)
    """Parameters that count tokens and must be whole numbers of at least 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthSpec:
    """A family with its parameters bound, or an explicit list of lengths."""

    text: str
    family: LengthFamily | None = None
    parameters: Mapping[str, float] = field(default_factory=dict)
    explicit: tuple[int, ...] | None = None

    def draw(self, batch: int, *, seed: int, page_size: int) -> tuple[int, ...]:
        """Return the lengths of ``batch`` sequences, in tokens; an explicit list ignores ``batch``."""
        if self.explicit is not None:
            return self.explicit
        if self.family is None:
            raise InvalidCase("lengths", self.text, "has neither a family nor a list")
        whole_number("batch", batch, low=1)
        whole_number("seed", seed, low=0, high=2**64 - 1)
        whole_number("page_size", page_size, low=1)
        rng = np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(self.text.encode())]))
        drawn = self.family.sampler(self.parameters, LengthRequest(batch=batch, page_size=page_size, rng=rng))
        return tuple(int(n) for n in np.clip(np.rint(drawn), 0, MAX_LENGTH))


def _fixed(p: Mapping[str, float], r: LengthRequest) -> Array:
    return np.full(r.batch, p["len"])


def _uniform(p: Mapping[str, float], r: LengthRequest) -> Array:
    return np.asarray(r.rng.integers(int(p["low"]), int(p["high"]) + 1, r.batch))


def _lognormal(p: Mapping[str, float], r: LengthRequest) -> Array:
    sigma2 = float(np.log1p(p["cv"] ** 2))
    return np.clip(r.rng.lognormal(np.log(p["mean"]) - sigma2 / 2, sigma2**0.5, r.batch), 1, p["max"])


def _zipf(p: Mapping[str, float], r: LengthRequest) -> Array:
    """Rank k of 1..max has weight k^-s; inverse of the cumulative weights, exact for any s >= 0."""
    weights = np.arange(1, int(p["max"]) + 1, dtype=np.float64) ** -p["s"]
    cumulative = np.cumsum(weights)
    return np.asarray(np.searchsorted(cumulative, r.rng.random(r.batch) * cumulative[-1], side="right") + 1)


def _bimodal(p: Mapping[str, float], r: LengthRequest) -> Array:
    long = r.rng.random(r.batch) < p["fraction"]
    return np.where(long, p["long"], p["short"])


def _one_long(p: Mapping[str, float], r: LengthRequest) -> Array:
    lengths = np.full(r.batch, p["short"])
    lengths[int(r.rng.integers(r.batch))] = p["long"]
    return lengths


def _page_plus_one(p: Mapping[str, float], r: LengthRequest) -> Array:
    return _page_multiple(p, r) + 1


def _page_multiple(p: Mapping[str, float], r: LengthRequest) -> Array:
    most = max(1, int(p["max"]) // r.page_size)
    return r.rng.integers(1, most + 1, r.batch) * r.page_size


def _family(name: str, about: str, sampler: Sampler, *, whole: str = "", **defaults: float) -> LengthFamily:
    return LengthFamily(
        name=name, about=about, defaults=defaults, sampler=sampler, whole=frozenset(whole.split())
    )


SYNTHETIC: dict[str, LengthFamily] = {
    family.name: family
    for family in (
        _family("fixed", "every sequence alike", _fixed, whole="len", len=1024),
        _family("uniform", "whole numbers from low to high", _uniform, whole="low high", low=1, high=4096),
        _family(
            "lognormal",
            "mean and coefficient of variation",
            _lognormal,
            whole="max",
            mean=1024,
            cv=1,
            max=32768,
        ),
        _family("zipf", "weight k^-s on 1..max", _zipf, whole="max", s=1, max=8192),
        _family(
            "bimodal",
            "short ones and a fraction of long ones",
            _bimodal,
            whole="short long",
            short=128,
            long=4096,
            fraction=0.25,
        ),
        _family(
            "one-long",
            "one long sequence among short ones",
            _one_long,
            whole="short long",
            short=128,
            long=16384,
        ),
        _family(
            "page-plus-one", "k pages and one token: the worst waste", _page_plus_one, whole="max", max=2048
        ),
        _family("page-multiple", "exactly k pages: no waste", _page_multiple, whole="max", max=2048),
    )
}


def parse_lengths(text: str, families: Mapping[str, LengthFamily] = SYNTHETIC) -> LengthSpec:
    """Read a length spec; the error names the part that is wrong and the nearest known name."""
    name, colon, rest = text.strip().partition(":")
    if name == "list":
        items = [part.strip() for part in rest.split(",")]
        for position, part in enumerate(items, start=1):
            if not part.isascii() or not part.isdigit():
                raise UsageError(
                    f"lengths {text!r}: item {position} is {part!r}, must be a whole number >= 0"
                )
            if len(part) > MAX_DIGITS:
                rule = f"must be at most {INT32_MAX}"
                raise UsageError(f"lengths: item {position} is {part[:20]}..., {rule}")
        lengths = lengths_tuple("lengths", [int(part) for part in items])
        return LengthSpec(text=f"list:{','.join(map(str, lengths))}", explicit=lengths)
    if name not in families:
        raise UnknownName("length family", name, [*families, "list"])
    family = families[name]
    if colon and not rest:
        raise UsageError(f"lengths {text!r}: nothing after the colon")
    parameters = dict(family.defaults)
    given: set[str] = set()
    for part in rest.split(",") if rest else ():
        key, equals, value = part.strip().partition("=")
        if not equals:
            raise UsageError(f"lengths {text!r}: {part!r} must read key=value")
        if key not in parameters:
            raise UnknownName(f"parameter of {name}", key, family.defaults)
        if key in given:
            raise UsageError(f"lengths {text!r}: {key!r} is given twice")
        given.add(key)
        parameters[key] = _parameter(family, key, value)
    if "high" in parameters and parameters["low"] > parameters["high"]:
        rule = f"must be at most high = {_plain(parameters['high'])}"
        raise InvalidCase(f"{name}:low", _plain(parameters["low"]), rule)
    # every digit, since the text tells two specs apart and seeds their draws
    shown = ",".join(f"{key}={_plain(value)}" for key, value in parameters.items())
    return LengthSpec(text=f"{name}:{shown}" if shown else name, family=family, parameters=parameters)


def _parameter(family: LengthFamily, key: str, value: str) -> float:
    label = f"{family.name}:{key}"
    if key in family.whole:
        if not value.isascii() or not value.isdigit() or len(value) > MAX_DIGITS:
            raise InvalidCase(label, value, f"must be a whole number of tokens, at most {MAX_LENGTH}")
        return whole_number(label, int(value), low=0 if family.name == "fixed" else 1, high=MAX_LENGTH)
    try:
        number = float(value)
    except ValueError:
        raise InvalidCase(label, value, "must be a number") from None
    if key == "fraction":
        return finite_number(label, number, low=0, high=1)
    return finite_number(label, number, low=1 if key == "mean" else 0, high=INT32_MAX)


def _plain(value: float) -> int | float:
    return int(value) if value == int(value) else value
