# SPDX-License-Identifier: Apache-2.0
"""A cluster of two Ray nodes on this machine, one of which is killed; skipped where Ray is not installed."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pabench.run.read import read_run

pytest.importorskip("ray", reason="pip install 'pabench[ray]' to run items on a cluster")
pytestmark = pytest.mark.nightly
CELLS = ("--page-sizes", "1:128:x2", "--lengths", "fixed:len=64", "--batch", "1", "--device", "emulated")
CLOCKS = ("run_ns", "plan_ns", "prepare_ns", "duration_s")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head and a second node, a core each, as `ray start --head` and `ray start --address` make them."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = import_module("ray.cluster_utils").Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    try:
        made.second = made.add_node(num_cpus=1)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def sweep(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pabench", "sweep", *CELLS, "--out", str(folder), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def cells(folder: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in line.items() if key not in CLOCKS} for line in read_run(folder).lines
    ]


def test_ray_cluster_that_loses_a_node_gives_the_run_of_this_machine(cluster: Any, tmp_path: Path) -> None:
    far, here = tmp_path / "far", tmp_path / "here"
    running = sweep(far, "--ray", cluster.address)
    until = time.monotonic() + 300
    while not ((far / "journal.jsonl").exists() and (far / "journal.jsonl").read_text().count("\n")):
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.05)
    cluster.remove_node(cluster.second, allow_graceful=False)  # SIGKILL, workers and all
    said, _ = running.communicate(timeout=300)
    assert running.returncode == 0, said
    local = sweep(here)
    said, _ = local.communicate(timeout=300)
    assert local.returncode == 0, said
    assert cells(far) == cells(here)
    ids = [line["id"] for line in read_run(far).lines]
    assert len(ids) == len(set(ids)) == 8


def test_ray_starts_a_cluster_of_its_own(tmp_path: Path) -> None:
    running = sweep(tmp_path / "run", "--ray", "local")
    said, _ = running.communicate(timeout=300)
    assert running.returncode == 0, said
    assert len(read_run(tmp_path / "run").lines) == 8
