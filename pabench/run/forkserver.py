# SPDX-License-Identifier: Apache-2.0
"""The process that workers are forked from: it has imported everything, and run nothing that is not ours.

A worker is then there in hundredths of a second, however often one dies.  It does two things: when
told to (byte ``s``, with the worker's socket and output as descriptors) it forks, and reports how the worker
ended; told so (byte ``r``) it kills all that the worker has left behind and forgets it.  One worker at a
time.  Its parent's end, known by the end of the control socket, is its own and the worker's.

A process that a worker starts and leaves, in a session of its own or not, becomes a child of the fork server
(``PR_SET_CHILD_SUBREAPER``), so that it is found and ends with its worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from pabench.run.channel import Channel

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
BURIAL_SECONDS = 3.0
"""How long descendants are hunted; one that forks faster than it is killed must not stop everything."""
BROKEN = 70
"""Exit status of a worker whose own code, not the code it was to run, raised."""

GARBAGE = 10_000
"""Objects between two collections, as their tracers are slow and a worker's cycles few."""

Work = Callable[[Channel], None]


def main(control_fd: int, entry: str, *preload: str) -> NoReturn:
    """Import ``module:function`` and fork workers that call it, until the control socket ends.

    Args:
        control_fd: of the control socket.
        entry: what a worker calls.
        preload: modules that workers will want; one that cannot be imported is told where it is wanted.
    """
    control = socket.socket(fileno=control_fd)
    sys.argv[:] = ["pabench-worker"]
    module, _, name = entry.partition(":")
    work: Work = getattr(importlib.import_module(module), name)
    for wanted in preload:
        with contextlib.suppress(Exception):
            importlib.import_module(wanted)
    wake, poke = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(poke, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(poke, warn_on_full_buffer=False)
    report = Channel(control)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    own = descendants()
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
            _bury(child, own)
            child, told = 0, True
        if not order:
            os._exit(0)


def _fork(work: Work, control: socket.socket, descriptors: list[int]) -> int:
    parent = os.getpid()
    child = os.fork()
    if not child:
        # nothing may bring the child back into the fork server's loop
        try:
            control.close()
            _become_worker(parent, output=descriptors[1])
            _run(work, Channel(socket.socket(fileno=descriptors[0]), takes_descriptors=True))
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
    _prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
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
    # what was imported before stays: looking through it again and again takes a part of all time
    gc.freeze()
    gc.set_threshold(GARBAGE)


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


def _prctl(option: int, value: int) -> None:
    """Ask the kernel for something that it may not have; then all goes on without."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _bury(child: int, own: set[int]) -> None:
    """Kill the worker and whatever it started, and free its number; ``own`` are not the worker's."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    end = time.monotonic() + BURIAL_SECONDS
    while (left := descendants() - own) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        for pid in left:
            # those whose parent has just died are ours by now; the next look finds the others
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.001)


def descendants() -> set[int]:
    """Return the processes that descend from this one, dead ones that nobody has waited for included."""
    parents: dict[int, int] = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return set()
    for name in names:
        if name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # the name of a program, in parentheses, may hold anything
                fields = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()
                parents[int(name)] = int(fields[1])
    found: set[int] = set()
    new = {os.getpid()}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return found
