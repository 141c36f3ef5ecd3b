# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import asdict

import pytest

from pabench.report.palette import (
    DARK,
    EMPTY,
    INK,
    LIGHT,
    LINES,
    MUTED,
    PAPER,
    RAMP_ENDS,
    SHAPES,
    STEPS,
    Theme,
    chart_colours,
    contrast,
    ramp,
)


def test_report_palette_contrast_of_black_and_white() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("name", RAMP_ENDS)
@pytest.mark.parametrize("theme", [0, 1])
def test_report_palette_figures_read_on_every_step(name: str, theme: int) -> None:
    steps = [pair[theme] for pair in ramp(name)]
    assert len(set(steps)) == STEPS
    assert min(contrast(INK[theme], step) for step in steps) >= 4.5


@pytest.mark.parametrize("theme", [0, 1])
def test_report_palette_chart_text_and_lines_read(theme: int) -> None:
    assert contrast(MUTED[theme], PAPER[theme]) >= 4.5
    assert contrast(INK[theme], EMPTY[theme]) >= 4.5
    assert min(contrast(pair[theme], PAPER[theme]) for pair in LINES) >= 3
    assert len(SHAPES) == len(LINES)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_report_palette_page_text_reads(theme: Theme) -> None:
    for ground in (theme.page, theme.card, theme.soft):
        for text in (theme.ink, theme.muted, theme.accent):
            assert contrast(text, ground) >= 4.5
    for name in ("passed", "failed", "warned", "neutral"):
        colours = asdict(theme)
        for ground in (colours[f"{name}_soft"], theme.card):
            assert contrast(colours[name], ground) >= 4.5
            assert contrast(theme.ink, ground) >= 4.5
            assert contrast(theme.muted, ground) >= 4.5


def test_report_palette_every_light_colour_has_one_dark_one() -> None:
    colours = chart_colours()
    assert len(colours) == 6 + len(LINES) + STEPS * len(RAMP_ENDS)
