# SPDX-License-Identifier: Apache-2.0
"""A fleet of Ray actors: one a GPU, or one a core where no GPU is wanted.

Loaded only for ``--ray``.  Every node needs the same pabench, and what the command line names (kernels,
backends, captured inputs) at the same paths.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from pabench.errors import EnvironmentRefused, UsageError
from pabench.run.fleet import Hand, HandLost, Supervisor
from pabench.run.shards import Halted

LOCAL, AUTO = "local", "auto"
ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):(?P<port>[0-9]{1,5})", re.ASCII)
ANSWER_SECONDS = 5.0
"""How long the head's port may take to answer."""
JOIN_SECONDS = 60.0
"""How long Ray may take to join a cluster whose port answers, or to start one here."""
LOOK_SECONDS = 1.0
"""How often a wait looks whether it is still wanted."""
OURS = "PABENCH_"
"""Variables of the environment that workers on other nodes get."""


class RayFleet:
    """Implements ``Fleet``.

    Args:
        address: ``HOST:PORT`` of the head, ``auto`` for the cluster that this node is in, ``local`` for a new
            one on this machine.
        device: of the command line; a place has a GPU where it may want one.

    Raises:
        UsageError: no such address.
        EnvironmentRefused: Ray is not installed, or nobody answers there; the message says which.
    """

    def __init__(self, address: str, *, device: str) -> None:
        check_address(address)
        self._ray = _ray()
        _join(self._ray, address)
        nodes = self._alive()
        gpus = any(node.get("GPU", 0) >= 1 for node in nodes)
        self._wants: dict[str, float] = {"CPU": 1.0}
        if device == "cuda" or (device == "auto" and gpus):
            self._wants["GPU"] = 1.0
        if not self.places:
            self.close()
            raise EnvironmentRefused(f"Ray at {address} has {self._words()} on no node")

    @property
    def places(self) -> int:
        """How many hands the nodes that are alive have room for."""
        return sum(self._room(node) for node in self._alive())

    @property
    def nodes(self) -> int:
        """How many nodes have room for one."""
        return sum(self._room(node) > 0 for node in self._alive())

    def hire(self, halted: Callable[[], bool]) -> Hand:
        """See ``Fleet``."""
        environment = {key: value for key, value in os.environ.items() if key.startswith(OURS)}
        made = self._ray.remote(Supervisor).options(
            num_cpus=self._wants["CPU"],
            num_gpus=self._wants.get("GPU", 0.0),
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": environment},
        )
        hand = RayHand(self._ray, made.remote())
        ready = hand.actor.__ray_ready__.remote()
        while True:
            if halted():
                hand.dismiss()
                raise Halted("interrupted")
            try:
                done, _ = self._ray.wait([ready], timeout=LOOK_SECONDS)
            except self._ray.exceptions.RayError:
                done = [ready]
            if done:
                return hand  # or lost already, which the first call says
            if not self.places:
                hand.dismiss()
                raise EnvironmentRefused(f"no node of the Ray cluster is left that has {self._words()}")

    def close(self) -> None:
        """See ``Fleet``."""
        self._ray.shutdown()

    def _alive(self) -> list[Mapping[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _room(self, node: Mapping[str, float]) -> int:
        return int(min(node.get(name, 0.0) // wanted for name, wanted in self._wants.items()))

    def _words(self) -> str:
        return "a GPU and a CPU" if "GPU" in self._wants else "a CPU"


class RayHand:
    """Implements ``Hand`` with an actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self.actor = ray, actor

    def open(self, errand: Mapping[str, Any]) -> Mapping[str, Any]:
        """See ``Hand``."""
        return self._call(self.actor.open, errand)

    def run(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        """See ``Hand``."""
        return self._call(self.actor.run, item)

    def ask(self, what: Mapping[str, Any]) -> Mapping[str, Any]:
        """See ``Hand``."""
        return self._call(self.actor.ask, what)

    def dismiss(self) -> None:
        """See ``Hand``; its worker ends with it."""
        with contextlib.suppress(Exception):
            self._ray.kill(self.actor)

    def _call(self, method: Any, given: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = self._ray.get(method.remote(dict(given)))
        except self._ray.exceptions.RayTaskError:
            raise  # our own code failed there
        except self._ray.exceptions.RayError as error:
            raise HandLost(str(error).strip().splitlines()[0]) from None
        return found


def check_address(address: str) -> None:
    """Raise ``UsageError`` for what is no address."""
    if address in (LOCAL, AUTO):
        return
    found = ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 65_536:
        rule = f"must be HOST:PORT of the head of a cluster, {AUTO}, or {LOCAL}"
        raise UsageError(f"--ray {address!r}: {rule}")


def _ray() -> Any:
    # it would tell its makers what is run
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return import_module("ray")
    except ImportError:
        raise EnvironmentRefused(
            "--ray needs Ray, which is not installed", hint="pip install 'pabench[ray]'"
        ) from None


def _join(ray: Any, address: str) -> None:
    """Join the cluster, or say within seconds that nobody answers; Ray itself would try for minutes."""
    found = ADDRESS.fullmatch(address)
    if found is not None:
        host = found["host"].strip("[]")
        try:
            socket.create_connection((host, int(found["port"])), timeout=ANSWER_SECONDS).close()
        except OSError as error:
            why = error.strerror or str(error)
            raise EnvironmentRefused(f"no Ray cluster answers at {address}: {why}") from None
    failed: list[BaseException] = []

    def join() -> None:
        try:
            ray.init(
                address=None if address == LOCAL else address,
                include_dashboard=False if address == LOCAL else None,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        except BaseException as error:  # a thread has nobody to raise it to
            failed.append(error)

    if address == LOCAL:
        # what Ray starts ends with the thread that has started it
        join()
        _raise_failed(address, failed)
        return
    joining = threading.Thread(target=join, daemon=True)
    joining.start()
    joining.join(JOIN_SECONDS)
    if joining.is_alive():
        raise EnvironmentRefused(f"Ray at {address} does not let this node join within {JOIN_SECONDS:g} s")
    _raise_failed(address, failed)


def _raise_failed(address: str, failed: list[BaseException]) -> None:
    if failed and isinstance(failed[0], KeyboardInterrupt):
        raise failed[0]
    if failed:
        said = str(failed[0]).strip().splitlines() or [type(failed[0]).__name__]
        raise EnvironmentRefused(f"Ray at {address} cannot be joined: {said[0]}")
