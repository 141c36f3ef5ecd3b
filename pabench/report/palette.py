# SPDX-License-Identifier: Apache-2.0
"""The colours of the page, each for the light and the dark theme.

Charts are drawn in the light colours, as presentation attributes; the dark theme overrides them by attribute
selectors, so the same SVG serves both, and reads on white where style sheets are stripped.  Ramps go through
one hue each, from quiet to strong, and text keeps a contrast of at least 4.5 on every step.
"""

from __future__ import annotations

from dataclasses import dataclass

STEPS = 7
PAPER = ("#ffffff", "#161b22")
INK = ("#1b2530", "#e8edf3")
MUTED = ("#55626f", "#a3b0bd")
GRID = ("#dce2e9", "#323c47")
HATCH = ("#b4bec9", "#566270")
EMPTY = ("#f3f5f8", "#1f262e")

RAMP_ENDS = {
    "waste": (("#fdf4e9", "#eba45c"), ("#2b2117", "#8f5312")),
    "gain": (("#ebf6f2", "#6dc1a2"), ("#15261f", "#17694d")),
    "tokens": (("#eef4fc", "#86b4ea"), ("#172331", "#205f9f")),
}
LINES = (
    ("#0b63a5", "#6fb7f2"),
    ("#b5460a", "#f2a065"),
    ("#0a7553", "#59cba4"),
    ("#77489f", "#c7a3ea"),
    ("#7d6400", "#dcc258"),
    ("#a3245f", "#f08db8"),
)
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """Colours of the page outside the charts; names as in the style sheet's variables."""

    page: str
    card: str
    ink: str
    muted: str
    line: str
    soft: str
    accent: str
    passed: str
    passed_soft: str
    failed: str
    failed_soft: str
    warned: str
    warned_soft: str
    neutral: str
    neutral_soft: str


LIGHT = Theme(
    page="#f5f7f9",
    card=PAPER[0],
    ink=INK[0],
    muted=MUTED[0],
    line=GRID[0],
    soft="#f0f3f6",
    accent="#0b5cad",
    passed="#11653f",
    passed_soft="#e4f4ec",
    failed="#a61b29",
    failed_soft="#fcebec",
    warned="#7a4d00",
    warned_soft="#fdf2dc",
    neutral="#4b5864",
    neutral_soft="#edf0f4",
)
DARK = Theme(
    page="#0e1217",
    card=PAPER[1],
    ink=INK[1],
    muted=MUTED[1],
    line=GRID[1],
    soft="#1d242c",
    accent="#79b8ff",
    passed="#6cd6a3",
    passed_soft="#132b20",
    failed="#ff9a9a",
    failed_soft="#381a1d",
    warned="#f0c26a",
    warned_soft="#332610",
    neutral="#b0bcc8",
    neutral_soft="#242c35",
)


def ramp(name: str) -> list[tuple[str, str]]:
    """Return the ``STEPS`` colours of a ramp as (light, dark), quiet to strong."""
    light, dark = RAMP_ENDS[name]
    return list(zip(_between(*light), _between(*dark), strict=True))


def chart_colours() -> dict[str, str]:
    """Return light colour to dark colour for everything a chart may draw."""
    pairs = [PAPER, INK, MUTED, GRID, HATCH, EMPTY, *LINES]
    return dict(pairs + [pair for name in RAMP_ENDS for pair in ramp(name)])


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours by WCAG 2's definition of relative luminance, 1 to 21."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in _channels(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _channels(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def _between(start: str, end: str) -> list[str]:
    one, other = _channels(start), _channels(end)
    steps = [k / (STEPS - 1) for k in range(STEPS)]
    mixed = [[a + (b - a) * t for a, b in zip(one, other, strict=True)] for t in steps]
    return ["#" + "".join(f"{round(255 * c):02x}" for c in colour) for colour in mixed]
