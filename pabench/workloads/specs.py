# SPDX-License-Identifier: Apache-2.0
"""Reads ``name`` or ``name:key=value,...`` for kinds of arrivals and of common beginnings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pabench.errors import InvalidCase, UnknownName, UsageError
from pabench.problem.checks import finite_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One name that a spec may have.

    Attributes:
        about: one line for lists.
        defaults: parameters.
        least: lowest value of a parameter; 0 unless given.
        whole: parameters that must be whole numbers.
    """

    about: str
    defaults: Mapping[str, float]
    least: Mapping[str, float]
    whole: frozenset[str] = frozenset()


def parse_spec(what: str, text: str, kinds: Mapping[str, Kind]) -> tuple[str, dict[str, float]]:
    """Return name and parameters of a spec.

    Args:
        what: names the option in errors.
        text: the spec.
        kinds: name to kind.

    Raises:
        UnknownName: no such name or parameter.
        UsageError: malformed, or a value out of its range.
    """
    name, colon, rest = text.strip().partition(":")
    if name not in kinds:
        raise UnknownName(what, name, kinds)
    kind = kinds[name]
    if colon and not rest:
        raise UsageError(f"{what} {text!r}: nothing after the colon")
    values, given = dict(kind.defaults), set[str]()
    for part in rest.split(",") if rest else ():
        key, equals, value = part.strip().partition("=")
        if not equals:
            raise UsageError(f"{what} {text!r}: {part!r} must read key=value")
        if key not in values:
            raise UnknownName(f"parameter of {name}", key, kind.defaults)
        if key in given:
            raise UsageError(f"{what} {text!r}: {key!r} is given twice")
        given.add(key)
        values[key] = _value(f"{name}:{key}", value, kind, key)
    return name, values


def _value(label: str, text: str, kind: Kind, key: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise InvalidCase(label, text, "must be a number") from None
    number = finite_number(label, number, low=kind.least.get(key, 0.0), high=1e9)
    if key in kind.whole and number != int(number):
        raise InvalidCase(label, text, "must be a whole number")
    return number
