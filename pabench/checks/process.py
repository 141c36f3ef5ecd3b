# SPDX-License-Identifier: Apache-2.0
"""What a run does to the process it runs in, and takes back at its end."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from types import FrameType

from pabench.device.cache import cache_root
from pabench.judge.threads import one_blas_thread

_interrupted = threading.Event()


@contextlib.contextmanager
def own_process(*, interruptible: bool = True) -> Iterator[None]:
    """Ask undisturbed: cache of Hypothesis in our own, prints kept apart, no interrupt forgotten.

    Args:
        interruptible: an interrupt comes from the user, who may look at what a subject prints, on standard
            error.  In a worker process it never does, and what Python code prints is dropped; what native
            code says of a crash still gets through.
    """
    if interruptible:
        with _own_environment(), one_blas_thread(), _remembered_interrupt(), _output_on_standard_error():
            yield
        return
    with (
        _own_environment(),
        one_blas_thread(),
        contextlib.redirect_stdout(_Nowhere()),
        contextlib.redirect_stderr(_Nowhere()),
    ):
        yield


def raise_if_interrupted() -> None:
    """Raise ``KeyboardInterrupt`` again when one was raised where nobody could pass it on.

    A ``KeyboardInterrupt`` inside a finaliser or a garbage-collection callback is printed and dropped by
    Python; the suite asks here after each case.
    """
    if _interrupted.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Generated cases are small: waking a second thread costs more, a hundredfold when the CPU is busy.

    Nothing happens where no subject has imported torch.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _output_on_standard_error() -> Iterator[None]:
    """Keep what a subject prints, native code included, out of what the command says."""
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        # a stream may be closed, or be no file at all: then there is nothing to keep apart
        with contextlib.suppress(OSError):
            before = os.dup(1)
            stack.callback(os.close, before)
            os.dup2(2, 1)
            stack.callback(os.dup2, before, 1)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


class _Nowhere(io.TextIOBase):
    """Takes what is written and keeps nothing: a subject may print without end."""

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        return len(text)


@contextlib.contextmanager
def _own_environment() -> Iterator[None]:
    """Keep Hypothesis out of the user's folder, and numpy from telling every infinity of a case."""
    # a torch, or another library on OpenMP, that a subject imports meanwhile finds one thread
    ours = {"HYPOTHESIS_STORAGE_DIRECTORY": str(cache_root() / "hypothesis"), "OMP_NUM_THREADS": "1"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


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
