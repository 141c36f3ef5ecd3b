# SPDX-License-Identifier: Apache-2.0
"""Signs of life, and what a subject raised in words."""

from __future__ import annotations

import threading
import time

import pytest

from pabench.run.alive import alive
from pabench.run.ending import MAX_ERROR_TEXT, error_text
from pabench.run.figures import unit_of


def test_alive_tells_at_once_again_and_no_more() -> None:
    told: list[float] = []
    before = threading.active_count()
    with alive(lambda: told.append(time.monotonic()), every_s=0.02):
        assert len(told) >= 1
        deadline = time.monotonic() + 30
        while len(told) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    count = len(told)
    time.sleep(0.1)
    assert len(told) == count
    assert threading.active_count() == before


def test_alive_ends_with_what_it_surrounds() -> None:
    before = threading.active_count()
    with pytest.raises(ValueError, match="no"), alive(lambda: None):
        raise ValueError("no")
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a\n  b"), "ValueError: a b"),
        (MemoryError(), "MemoryError"),
        (KeyError("x" * 2000), "KeyError: '" + "x" * (MAX_ERROR_TEXT - 11) + "..."),
    ],
)
def test_error_text_names_type_message_and_place(error: Exception, said: str) -> None:
    assert error_text(error) == said
    with pytest.raises(type(error)) as caught:
        raise error
    place = error_text(caught.value).removeprefix(said)
    assert place.startswith(" in test_error_text_names_type_message_and_place (test_alive.py:")
    assert "\n" not in place


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("ttft_s_p50", "s"),
        ("e2e_s_mean", "s"),
        ("output_tokens_per_s", "per second"),
        ("hit_tokens", "tokens"),
        ("skipped", "requests"),
        ("tokens_share", ""),
        ("peak_pages", "pages"),
        ("margin", "logits"),
    ],
)
def test_units_follow_from_names(name: str, unit: str) -> None:
    assert unit_of(name) == unit
