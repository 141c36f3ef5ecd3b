# SPDX-License-Identifier: Apache-2.0
"""What the workers of the isolation tests do; run in processes of their own."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from pabench.run.channel import Channel
from pabench.run.forks import ForkGuard


def work(channel: Channel) -> None:
    """Obey one order a message."""
    guard = ForkGuard()
    while (order := channel.receive()) is not None:
        name = order["do"]
        if name == "echo":
            channel.send(order)
        elif name == "who":
            channel.send({"pid": os.getpid(), "parent": os.getppid(), "group": os.getpgid(0)})
        elif name == "first to go":
            channel.send({"score": Path("/proc/self/oom_score_adj").read_text()})
        elif name == "segfault":
            ctypes.string_at(0)
        elif name == "abort":
            os.abort()
        elif name == "exit":
            os._exit(order["status"])
        elif name == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif name == "loop":
            loop_without_end()
        elif name == "sleep holding the lock":
            ctypes.PyDLL(None).sleep(3600)
        elif name == "raise":
            raise ValueError("first line\nsecond line")
        elif name == "babble":
            os.write(1, b"noise\n" * 100_000)
            print("noise", file=sys.stderr)  # noqa: T201
            channel.send({"done": True})
        elif name == "babble for ever":
            while True:
                os.write(2, b"noise\n" * 100)
        elif name == "garble":
            os.write(channel.fileno(), b"no message\n")
            time.sleep(3600)
        elif name == "close":
            channel.close()
            time.sleep(3600)
        elif name == "close all":
            os.closerange(0, 1000)
            time.sleep(3600)
        elif name == "say and die":
            for number in range(order["count"]):
                channel.send({"number": number})
            os._exit(0)
        elif name == "leave a child":
            if not (child := os.fork()):
                time.sleep(3600)
            channel.send({"child": child})
        elif name == "leave daemons":
            channel.send({"pids": leave_daemons()})
        elif name == "parts":
            first, second = order["parts"]
            channel.send({"sizes": [len(first), len(second)]}, [second, first])
        elif name == "read descriptors":
            found = [os.read(descriptor, 100).decode() for descriptor in channel.descriptors]
            channel.send({"found": found})
        elif name == "say":
            os.write(channel.fileno(), order["text"].encode())
            time.sleep(3600)
        elif name == "babble without a line":
            while True:
                os.write(channel.fileno(), b"x" * 2**16)
        elif name == "fork":
            os.fork()
            channel.send({"copy": guard.copy_came_back()})
        elif name == "fork in C":
            if ctypes.CDLL(None).fork():
                select.select([guard._read], [], [], 60.0)  # until the copy has come back
            channel.send({"copy": guard.copy_came_back()})
        elif name == "fork and speak":
            os.fork()
            time.sleep(0.1)
            channel.send({"done": True})


def leave_daemons() -> list[int]:
    """Processes that no group and no session of the worker's holds: a new session, and a double fork."""
    session = subprocess.Popen(["sleep", "3600"], start_new_session=True)
    read, write = os.pipe()
    if not os.fork():
        os.setsid()
        if os.fork():
            os._exit(0)
        os.write(write, str(os.getpid()).encode())
        time.sleep(3600)
    return [session.pid, int(os.read(read, 100))]


def loop_without_end() -> None:
    while True:
        pass


def not_a_worker(channel: Channel) -> None:
    raise SystemExit("will not")
