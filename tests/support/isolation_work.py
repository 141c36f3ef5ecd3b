"""What the workers of the isolation tests do; run in processes of their own."""

from __future__ import annotations

import ctypes
import os
import select
import signal
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


def loop_without_end() -> None:
    while True:
        pass


def not_a_worker(channel: Channel) -> None:
    raise SystemExit("will not")
