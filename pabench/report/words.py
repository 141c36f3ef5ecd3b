# SPDX-License-Identifier: Apache-2.0
"""Text and numbers as the page shows them: texts cleaned and cut to their field, three digits on screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pabench.text import TEXT_LIMIT, clean_text

NAME_LIMIT = 120
DASH = "–"
TIMES = ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1.0, "ns"))
BYTES = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "B"))
TRACEBACK_LIMIT = 8000
LONG_FIELDS = frozenset({"text", "reason", "replay", "command", "about", "path", "description"})


def clean(value: Any, field: str = "") -> Any:
    """Return JSON data with every text in it, keys too, passed through ``clean_text``."""
    if isinstance(value, str) and field == "traceback":
        # its end is where the reason is
        return clean_text(value[-TRACEBACK_LIMIT:], TRACEBACK_LIMIT)
    if isinstance(value, str):
        return clean_text(value, TEXT_LIMIT if field in LONG_FIELDS else NAME_LIMIT)
    if isinstance(value, dict):
        return {clean_text(key, NAME_LIMIT): clean(item, key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item, field) for item in value]
    return value


def number(value: Any) -> float | None:
    """Return a journal's number as a float (``"inf"`` included), None for null and for what is no number."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def digits(value: float | None, count: int = 3) -> str:
    """Return ``value`` with ``count`` significant digits, thousands grouped, rarely with an exponent."""
    if value is None:
        return DASH
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4 or exponent > 14:
        return f"{value:.{count - 1}e}".replace("-", "−")
    shown = round(value, count - 1 - exponent)
    # rounding may carry into the next power of ten
    exponent = math.floor(math.log10(abs(shown)))
    return f"{shown:,.{max(0, count - 1 - exponent)}f}".replace("-", "−")


def whole(value: Any) -> str:
    """Return an exact count, thousands grouped."""
    figure = number(value)
    if figure is None or not math.isfinite(figure):
        return digits(figure)
    return f"{int(value):,}" if figure == int(figure) else digits(figure)


def percent(value: float | None) -> str:
    """Return a fraction as a percentage; ``0.033`` reads ``3.30 %``."""
    return DASH if value is None else f"{digits(100 * value)} %"


def scaled(value: float | None) -> str:
    """Return a number with k, M or G: ``1234567`` reads ``1.23 M``."""
    if value is None or not math.isfinite(value):
        return digits(value)
    for factor, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        # 999,600 with three digits is 1.00 M, not 1,000 k
        if abs(value) >= factor * 0.9995:
            return digits(value / factor) + unit
    return digits(value)


def common_unit(values: Sequence[float], units: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """Return the factor and the name of the unit that suits the median of ``values``."""
    finite = sorted(v for v in values if math.isfinite(v) and v > 0)
    middle = finite[len(finite) // 2] if finite else 0.0
    return next(((factor, name) for factor, name in units if middle >= factor), units[-1])


def join(parts: Sequence[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
