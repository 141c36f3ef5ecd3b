# SPDX-License-Identifier: Apache-2.0
"""Prints what a benchmark's time means for one unit of its work, below pytest-benchmark's table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture
def per_unit(benchmark: Any, request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """Return ``note(unit, count)``, called after the benchmark: median us of one of ``count`` units."""

    def note(unit: str, count: int) -> None:
        if benchmark.stats is None:  # --benchmark-disable
            return
        time_us = 1e6 * benchmark.stats.stats.median / count
        benchmark.extra_info[f"us_per_{unit.replace(' ', '_')}"] = time_us
        lines = request.config.stash.setdefault(FIGURES, [])
        lines.append(f"{request.node.name}: {time_us:.4f} us per {unit} ({count} of them, median)")

    return note


@pytest.fixture
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return what adds a line to the figures, such as a ratio of two times within one run."""

    def add(text: str) -> None:
        request.config.stash.setdefault(FIGURES, []).append(f"{request.node.name}: {text}")

    return add


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the figures."""
    for line in config.stash.get(FIGURES, []):
        terminalreporter.write_line(line)
