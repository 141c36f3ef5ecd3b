"""What holds for every test."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from pabench.strategies.drawing import no_foreign_constants


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests start: a shell has it ignored in all that it starts with ``&``."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def same_draws_in_any_order() -> Iterator[None]:
    """What a property test draws does not depend on which tests its process ran before."""
    with no_foreign_constants():
        yield


@pytest.fixture(scope="session", autouse=True)
def interrupts_are_heard() -> None:
    """Started in the background of a script, this process ignores Ctrl-C, and so would all that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
