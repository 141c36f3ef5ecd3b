"""What a run does to the process it runs in, and takes back at its end."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from pabench.device.cache import cache_root

FOREIGN_VARIABLES = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DEBUG", "PYTEST_THEME")

_interrupted = threading.Event()


@contextlib.contextmanager
def own_process(*, interruptible: bool = True) -> Iterator[None]:
    """Run the suite undisturbed: own environment, one torch thread, an interrupt that is not forgotten.

    Args:
        interruptible: an interrupt comes from the user; in a worker process it never does.
    """
    remembered = _remembered_interrupt() if interruptible else contextlib.nullcontext()
    with _own_environment(), _one_torch_thread(), remembered:
        yield


def raise_if_interrupted() -> None:
    """Raise ``KeyboardInterrupt`` again when one was raised where nobody could pass it on.

    A ``KeyboardInterrupt`` inside a finaliser or a garbage-collection callback is printed and dropped by
    Python; the suite asks here after each case.
    """
    if _interrupted.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def _own_environment() -> Iterator[None]:
    """Keep out what the user's environment tells pytest and Hypothesis to do in projects of their own."""
    ours = {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(cache_root() / "hypothesis"),
    }
    before = {name: os.environ.get(name) for name in (*ours, *FOREIGN_VARIABLES)}
    for name in FOREIGN_VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Generated cases are small: waking a second thread costs more, a hundredfold when the CPU is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _remembered_interrupt() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def remember(number: int, frame: FrameType | None) -> None:
        _interrupted.set()
        raise KeyboardInterrupt

    _interrupted.clear()
    before = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _interrupted.clear()
