# SPDX-License-Identifier: Apache-2.0
"""Judges planted faults in processes of their own, which those that run wild may take along."""

from __future__ import annotations

import atexit
import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

from pabench.run.channel import Channel
from pabench.run.workers import ForkServer, WorkerEnded

CRASHED = "crashed"


def apart(judge: Callable[..., str | None], *, silence_s: float = 300.0, **order: Any) -> str | None:
    """Return what ``judge(**order)`` returns in a process of its own; that it crashed is a verdict too.

    Args:
        judge: a function of a module.
        silence_s: after so long it counts as hanging, a verdict too.
        order: JSON values.
    """
    worker = _fork_server().start()
    worker.send({"module": judge.__module__, "name": judge.__name__, "order": order})
    try:
        answer = worker.receive(silence_s)
    except WorkerEnded as ended:
        return f"{CRASHED}: {ended}"
    finally:
        worker.stop()
    return None if answer["text"] is None else str(answer["text"])


def work(channel: Channel) -> None:
    """What a worker of ``apart`` does: one order."""
    asked = channel.receive()
    if asked is not None:
        judge = getattr(importlib.import_module(asked["module"]), asked["name"])
        channel.send({"text": judge(**asked["order"])})


@cache
def _fork_server() -> ForkServer:
    fork_server = ForkServer(f"{__name__}:{work.__name__}")
    atexit.register(fork_server.close)
    return fork_server
