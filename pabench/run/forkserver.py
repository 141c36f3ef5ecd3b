"""The process that workers are forked from: it has imported everything, and run nothing that is not ours.

A worker is then there in hundredths of a second, however often one dies.  The nursery does two things: when
told to (byte ``s``, with the worker's socket and output as descriptors) it forks, and reports how the worker
ended; told so (byte ``r``) it kills what is left of the process group and forgets it.  One worker at a
time.  Its parent's end, known by the end of the control socket, is its own and the worker's.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pabench.run.channel import Channel

PR_SET_PDEATHSIG = 1
BROKEN = 70
"""Exit status of a worker whose own code, not the code it was to run, raised."""

Work = Callable[[Channel], None]


def main(control_fd: int, entry: str) -> NoReturn:
    """Import ``module:function`` and fork workers that call it, until the control socket ends."""
    control = socket.socket(fileno=control_fd)
    sys.argv[:] = ["pabench-worker"]
    module, _, name = entry.partition(":")
    work: Work = getattr(importlib.import_module(module), name)
    wake, poke = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(poke, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(poke, warn_on_full_buffer=False)
    report = Channel(control)
    child, told = 0, True
    while True:
        select.select([control.fileno(), wake], [], [])
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)
        # looked at before it is buried: until then its number, and its group's, belong to nobody else
        ended = None if told else os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is not None:
            told = True
            with contextlib.suppress(OSError):
                report.send({"code": ended.si_code, "status": ended.si_status})
        if not select.select([control], [], [], 0)[0]:
            continue
        order, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if order == b"s":
            child, told = _fork(work, control, descriptors), False
            report.send({"pid": child})
        elif child:
            _bury(child)
            child, told = 0, True
        if not order:
            os._exit(0)


def _fork(work: Work, control: socket.socket, descriptors: list[int]) -> int:
    parent = os.getpid()
    child = os.fork()
    if not child:
        # nothing may bring the child back into the nursery's loop
        try:
            control.close()
            _become_worker(parent, output=descriptors[1])
            _run(work, Channel(socket.socket(fileno=descriptors[0])))
        finally:
            os._exit(BROKEN)
    for descriptor in descriptors:
        os.close(descriptor)
    with contextlib.suppress(OSError):
        # both sides do it, so that it is done whoever comes first
        os.setpgid(child, child)
    return child


def _become_worker(parent: int, *, output: int) -> None:
    os.setpgid(0, 0)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(BROKEN)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    os.close(nothing)
    os.close(output)
    # crashes are expected here: a line says more than a file of a gigabyte
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        # a subject that eats all memory must take no other process along
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    faulthandler.enable(file=2)


def _run(work: Work, channel: Channel) -> NoReturn:
    status = 0
    try:
        work(channel)
    except BaseException as error:
        traceback.print_exc()
        status = BROKEN
        with contextlib.suppress(Exception):
            channel.send({"event": "broke", "text": f"{type(error).__name__}: {error}"})
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _bury(child: int) -> None:
    """Kill the worker and whatever it started, and free its number."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
