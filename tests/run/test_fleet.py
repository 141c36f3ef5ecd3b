# SPDX-License-Identifier: Apache-2.0
"""Items on other machines, with a fleet that is made here: what is lost runs again, and nothing twice."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pabench.errors import EnvironmentRefused, PabenchError, UsageError
from pabench.run.directory import RunDirectory
from pabench.run.engine import Engine, Finished
from pabench.run.fleet import LOSSES, Hand, HandLost, Supervisor
from pabench.run.options import options_of
from pabench.run.ray_fleet import RayFleet, check_address
from pabench.run.read import read_run
from pabench.run.shards import Halted

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "toy_activity.py"
WORDS = ("level", "word", "noon", "crash", "deed")


@pytest.fixture(scope="module")
def toy() -> Any:
    spec = importlib.util.spec_from_file_location("fleet_toy", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "fleet_toy", module)
        spec.loader.exec_module(module)
        yield module


class NodeHand:
    """A supervisor of this process; the wire is JSON, and the node may go."""

    def __init__(self, fleet: NodeFleet, node: str) -> None:
        self._fleet, self.node, self._supervisor = fleet, node, Supervisor()
        self._gone = False

    def open(self, errand: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._over_the_wire(self._supervisor.open, errand)

    def run(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        word = item["item"]["text"]
        self._fleet.began.append((self.node, word))
        if self._fleet.loses(self, word):
            self.dismiss()
        return self._over_the_wire(self._supervisor.run, item)

    def ask(self, what: Mapping[str, Any]) -> Mapping[str, Any]:
        return self._over_the_wire(self._supervisor.ask, what)

    def dismiss(self) -> None:
        if not self._gone:
            self._gone = True
            self._supervisor.close()
            self._fleet.free.release()

    def _over_the_wire(
        self, method: Callable[[Mapping[str, Any]], Mapping[str, Any]], given: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        if self._gone:
            raise HandLost(f"node {self.node} died")
        found: Mapping[str, Any] = json.loads(json.dumps(method(json.loads(json.dumps(given)))))
        return found


class NodeFleet:
    """Two nodes of one place each."""

    places = nodes = 2

    def __init__(self, loses: Callable[[NodeHand, str], bool] = lambda hand, word: False) -> None:
        self.loses = loses
        self.free = threading.Semaphore(self.places)
        self.hands: list[NodeHand] = []
        self.began: list[tuple[str, str]] = []
        self.closed = False

    def hire(self, halted: Callable[[], bool]) -> Hand:
        while not self.free.acquire(timeout=0.05):
            if halted():
                raise Halted("interrupted")
        self.hands.append(NodeHand(self, f"n{len(self.hands)}"))
        return self.hands[-1]

    def close(self) -> None:
        self.closed = True


def run_on(fleet: NodeFleet | None, plug: Any, folder: Path, *, jobs: int = 2) -> Finished:
    with Engine(plug, deadline_s=30.0, jobs=jobs, fleet=fleet) as engine:
        facts = engine.prepare()
        with RunDirectory.create(folder, kind="toy", command="toy", config={}, provenance={}) as directory:
            return engine.run(plug.items(facts), directory)


def lines(folder: Path) -> Iterator[dict[str, Any]]:
    """The records, less what a clock said."""
    for record in read_run(folder).records:
        yield {key: value for key, value in record.to_line().items() if key != "duration_s"}


def test_fleet_gives_the_run_of_this_machine_item_by_item(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = NodeFleet(lambda hand, word: not both_hired.wait(60.0))  # one alone could be done with all before
    hire, both_hired = fleet.hire, threading.Event()

    def hired(halted: Callable[[], bool]) -> Hand:
        hand = hire(halted)
        if len(fleet.hands) == fleet.nodes:
            both_hired.set()
        return hand

    monkeypatch.setattr(fleet, "hire", hired)
    far = run_on(fleet, toy.Toy(WORDS), tmp_path / "far", jobs=9)
    here = run_on(None, toy.Toy(WORDS), tmp_path / "here")
    assert list(lines(tmp_path / "far")) == list(lines(tmp_path / "here"))
    assert far.exit_code == here.exit_code == 1
    assert [record.subject.name for record in far.records] == list(WORDS)
    assert Counter(word for _, word in fleet.began) == Counter(WORDS)
    assert len(fleet.hands) == 2  # more would hold items that others could run
    assert fleet.closed
    assert all(hand._gone for hand in fleet.hands)


def test_fleet_runs_what_a_lost_node_had_again_and_nothing_twice(toy: Any, tmp_path: Path) -> None:
    lost: list[str] = []

    def loses(hand: NodeHand, word: str) -> bool:
        if word == "noon" and not lost:
            lost.append(hand.node)
            return True
        return False

    fleet = NodeFleet(loses)
    run_on(fleet, toy.Toy(WORDS), tmp_path / "far")
    run_on(None, toy.Toy(WORDS), tmp_path / "here")
    assert list(lines(tmp_path / "far")) == list(lines(tmp_path / "here"))
    assert Counter(word for _, word in fleet.began) == Counter(WORDS) + Counter(["noon"])
    assert len(lost) == 1
    assert all(node != lost[0] for node, _ in fleet.began[fleet.began.index((lost[0], "noon")) + 1 :])


def test_fleet_does_not_try_for_ever_what_ends_its_nodes(toy: Any, tmp_path: Path) -> None:
    fleet = NodeFleet(lambda hand, word: word == "noon")
    run_on(fleet, toy.Toy(("noon", "level")), tmp_path / "far", jobs=1)
    noon, level = read_run(tmp_path / "far").records
    assert (str(noon.status), str(level.status)) == ("crashed", "passed")
    assert noon.reason is not None
    assert noon.reason.startswith(f"its worker was lost {LOSSES} times, the last time: node n")
    assert len(fleet.began) == LOSSES + 1


def test_fleet_of_unlike_machines_is_refused(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, both_open = NodeHand.open, threading.Event()

    def unlike(self: NodeHand, errand: Mapping[str, Any]) -> Mapping[str, Any]:
        found = dict(opened(self, errand))
        if self.node == "n1":
            both_open.set()
        found["facts"] = {**found["facts"], "description": f"GPU of {self.node}"}
        return found

    def waits(hand: NodeHand, word: str) -> bool:
        both_open.wait(60.0)  # one that is fast could have run all before the other is there
        return False

    monkeypatch.setattr(NodeHand, "open", unlike)
    with pytest.raises(EnvironmentRefused, match="that are alike, and got 'GPU of n0' and 'GPU of n1'"):
        run_on(NodeFleet(waits), toy.Toy(WORDS), tmp_path / "far")


def test_fleet_says_what_a_bench_refuses(toy: Any, tmp_path: Path) -> None:
    plug = toy.Toy(WORDS)
    plug.bench = "pabench.nowhere:Bench"
    with pytest.raises(PabenchError, match=r"bench 'pabench\.nowhere:Bench' cannot be loaded"):
        run_on(NodeFleet(), plug, tmp_path / "far")
    assert not (tmp_path / "far").exists()


@pytest.mark.parametrize("address", ["local", "auto", "head:6379", "10.0.0.1:1", "[::1]:65535"])
def test_ray_addresses(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize("address", ["", "head", "head:0", "head:65536", "ray://head:10001", "a b:1", "h:١"])
def test_ray_refuses_what_is_no_address(address: str) -> None:
    with pytest.raises(UsageError, match="must be HOST:PORT of the head of a cluster, auto, or local"):
        check_address(address)


def test_ray_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EnvironmentRefused, match="--ray needs Ray, which is not installed"):
        RayFleet("local", device="auto")


def test_ray_says_where_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", object())  # is not asked
    with pytest.raises(EnvironmentRefused, match="no Ray cluster answers at localhost:1: ") as refused:
        RayFleet("localhost:1", device="auto")
    assert refused.value.exit_code == 7


def test_ray_needs_worker_processes() -> None:
    flags = {"resume": False, "overwrite": False, "dry_run": False}
    with pytest.raises(UsageError, match="--ray needs worker processes, must not be given with --in-process"):
        options_of("toy", {**flags, "in_process": True, "ray": "local"})
