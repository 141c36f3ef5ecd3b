# SPDX-License-Identifier: Apache-2.0
"""The core grid: points, floors and predictions as data, said before anything is measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from pabench.activities.sweep.cell import Cell
from pabench.activities.sweep.config import absent_adapters, resolve_config
from pabench.activities.sweep.expect import Expectations, against_ceilings
from pabench.activities.sweep.grid import point_cells
from pabench.activities.sweep.grid_file import GridFile, read_grid
from pabench.activities.sweep.grid_table import best_peer, ceilings_text, print_grid_table
from pabench.errors import UnknownName, UsageError
from pabench.judge.traffic import decode_traffic
from pabench.subjects.backends.own import OWN
from pabench.timing.gpus import GPUS
from tests.support.standin_support import EXPECT

H200 = GPUS["h200"]
TINY = (
    EXPECT
    + """
[[points]]
grid = "small"
models = ["tiny"]
shapes = ["3x100"]
lengths = ["fixed:len={mean}", "uniform:low=1,high={twice}"]
[[points]]
grid = "full"
models = ["tiny"]
shapes = ["3x100", "2x50"]
lengths = ["fixed:len={mean}"]
"""
)


def grid(tmp_path: Path, text: str = TINY, size: str = "") -> GridFile:
    path = tmp_path / "g.toml"
    path.write_text(text)
    return read_grid(f"{path}{size}")


def cells(found: GridFile, *backends: str) -> list[Cell]:
    return [c for _, c in point_cells(found.points, backends, seed=0, device="cuda", gpu="h200")]


def test_grid_sizes_contain_one_another_and_begin_alike() -> None:
    small, medium, full = (read_grid(name).points for name in ("core-small", "core", "core-full"))
    assert (len(small), len(medium), len(full)) == (6, 44, 72)
    assert medium[:6] == full[:6] == small
    assert full[:44] == medium
    assert len(set(full)) == len(full)


def test_grid_core_has_the_points_it_is_known_for() -> None:
    points = read_grid("core").points
    assert {p.problem.page_size for p in points if (p.model, p.batch) == ("llama-3-8b", 64)} >= {
        *(1, 8, 16, 32, 64, 128, 256)
    }
    for model in ("llama-3-8b", "llama-3-70b", "llama-2-7b", "gemma-2-9b"):
        shapes = {(p.batch, p.lengths.partition(":")[0]) for p in points if p.model == model}
        assert {(b, law) for b in (8, 64, 32, 256) for law in ("fixed", "lognormal")} <= shapes
        assert (1, "fixed") in shapes
    mentioned = {rule.backend for rule in read_grid("core").expectations.fractions}
    assert mentioned <= OWN.keys()


def test_grid_of_kinds_has_what_is_no_plain_decode_each_with_its_backends() -> None:
    found = read_grid("kinds")
    config = resolve_config({"grid": "kinds", "device": "emulated"}, backends=list(OWN))
    assert set(found.backends) <= set(config.backends) <= OWN.keys()
    made = [(model, cell) for model, cell in made_of(found, config.backends)]
    kinds = {
        "prefill": {cell.backend for _, cell in made if cell.q_len > 8 and not cell.problem.latent},
        "formats": {cell.backend for _, cell in made if cell.problem.kv_dtype},
        "windows": {cell.backend for _, cell in made if cell.problem.window},
        "latent": {cell.backend for _, cell in made if cell.problem.latent},
        "shared": {cell.backend for _, cell in made if cell.shared_pages},
    }
    everywhere = {"rawkernel", "rawkernel-mma", "torch-sdpa"}
    assert kinds == {
        **dict.fromkeys(("prefill", "formats", "windows"), everywhere),
        "latent": {"rawkernel-mla"},
        "shared": {"rawkernel-cascade", "rawkernel-mma"},
    }
    # what is predicted of our best backend for each kind, before anything is measured
    predicted = {
        cell.backend for model, cell in made if found.expectations.of(cell, H200, model=model)["predicted_ns"]
    }
    assert predicted == {"rawkernel-mma", "rawkernel-mla", "rawkernel-cascade"}
    # none but those of these kinds take them for other grids
    assert not set(resolve_config({"grid": "core"}, backends=list(OWN)).backends) & {"rawkernel-mla"}


def test_traffic_of_kinds_counts_rows_and_shared_pages_once() -> None:
    by_model = {(model, cell.q_len): cell for model, cell in made_of(read_grid("kinds"), ["rawkernel-mma"])}
    prefill, shared = by_model["llama-3-8b-prefill", 4096], by_model["llama-3-8b", 1]
    moved = prefill.traffic()
    assert moved.kv_bytes == 4 * 4096 * 4096
    assert moved.q_bytes == moved.out_bytes == 4 * 4096 * 32 * 128 * 2
    assert moved.flops == 4 * 2 * 32 * 256 * (4096 * 4097 // 2)
    assert shared.traffic().tokens == 3072 + 64 * 1024
    assert shared.traffic().kv_bytes == (3072 + 64 * 1024) * 4096


def made_of(found: GridFile, backends: Any) -> Any:
    return point_cells(found.points, backends, seed=0, device="cuda", gpu="h200")


def test_grid_floors_are_those_of_the_notes() -> None:
    """32 x 4096 tokens of Llama-3-8B are 537 MB of cache and 124.9 us at 4.3 TB/s."""
    found = read_grid("core-small")
    first = cells(found, "rawkernel-mma")[0]
    assert decode_traffic(first.problem, first.batch.kv_lens).kv_bytes == 536_870_912
    expected = found.expectations.of(first, H200)
    assert expected["expected_floor_ns"] == pytest.approx(124_900, rel=0.003)
    assert expected["predicted_ns"] == pytest.approx(124_900 / 0.95, rel=0.003)


def test_grid_predicts_by_backend_evenness_and_size(tmp_path: Path) -> None:
    found = grid(tmp_path)
    even, uneven = cells(found, "rawkernel")[:2]
    floor = 0.9 * 4800
    figures = found.expectations.of(even, H200)
    bytes_ = decode_traffic(even.problem, even.batch.kv_lens).total_bytes
    assert figures["expected_floor_ns"] == pytest.approx(bytes_ / floor)
    assert figures["predicted_ns"] == pytest.approx(2 * bytes_ / floor)
    assert found.expectations.of(uneven, H200)["predicted_ns"] is None
    assert found.expectations.of(cells(found, "torch-sdpa")[0], H200)["predicted_ns"] is None
    large = grid(tmp_path, TINY.replace("from_mb = 0", "from_mb = 1"))
    assert large.expectations.of(even, H200)["predicted_ns"] is None


def test_grid_floor_is_of_operations_where_they_take_longer() -> None:
    first = cells(read_grid("core-small"), "rawkernel")[0]
    slow = Expectations(memory_reach=1.0, tensor_reach=1e-4, fractions=())
    flops = decode_traffic(first.problem, first.batch.kv_lens).flops
    assert slow.of(first, H200)["expected_floor_ns"] == pytest.approx(flops / (0.09894 * 1e3))


def test_grid_files_have_sizes_and_keep_the_first_of_two_alike(tmp_path: Path) -> None:
    assert [p.lengths for p in grid(tmp_path, size=":small").points] == [
        *("fixed:len=100", "uniform:low=1,high=200")
    ]
    assert [(p.batch, p.lengths) for p in grid(tmp_path).points] == [
        *((3, "fixed:len=100"), (3, "uniform:low=1,high=200"), (2, "fixed:len=50"))
    ]


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        ('heads = "4:2"', 'heads = "4:3"', "4 query heads must be a multiple of 3 KV heads"),
        ('heads = "4:2"', "", "'heads' is missing"),
        ("head_dim = 64", "head_dim = 0", "head_dim = 0: must be at least 1"),
        ("head_dim = 64", "dim = 64", "unknown key of a model 'dim'"),
        ('shapes = ["3x100"]', 'shapes = ["3,100"]', "shapes = '3,100': must read SEQUENCESxMEAN"),
        ('shapes = ["3x100"]', "shapes = []", "shapes = []: must be a list that is not empty"),
        ('shapes = ["3x100"]', 'shapes = "3x100"', "must be a list that is not empty"),
        ('models = ["tiny"]', 'models = ["tine"]', "unknown model of a grid 'tine'; did you mean 'tiny'"),
        ("[expect]", "[operations.append]\nsize = 0\nfraction = 1\n[expect]", "size = 0: must be at least 1"),
        ("[expect]", "[operations.apend]\n[expect]", "unknown operation 'apend'; did you mean 'append'"),
        ('grid = "small"', 'grid = "small"\nqueries = 0', "queries = 0: must be at least 1"),
        ('grid = "small"', 'grid = "small"\nshared = -1', "shared = -1: must be at least 0"),
        ('grid = "small"', 'grid = "small"\nbackends = "a"', "backends = 'a': must be a list of names"),
        ('grid = "small"', 'grid = "tall"', "grid = 'tall': must be one of small, medium, full"),
        ("fraction = 0.5", "fraction = 0.0", "fraction = 0.0: must be at least 1e-06"),
        ("fraction = 0.5", "fraction = 1.5", "fraction = 1.5: must be at most 1"),
        ("[expect]", "[expect", "Expected"),
        ("[model.tiny]", "[models.tiny]", "unknown table of the grid 'models'"),
        ("memory_reach = 0.9", "", "'memory_reach' is missing"),
    ],
)
def test_grid_files_that_break_a_rule_say_so(tmp_path: Path, before: str, after: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        grid(tmp_path, TINY.replace(before, after, 1))
    assert text in str(caught.value)


def test_grid_names_are_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'core-full'"):
        read_grid("core-ful")
    with pytest.raises(UsageError, match="no such file"):
        read_grid(str(tmp_path / "absent.toml"))


def test_grid_takes_the_place_of_the_axes() -> None:
    config = resolve_config({"grid": "core"}, backends=["a", "b"])
    assert (config.grid, config.backends, config.page_sizes, config.head_dim) == (
        "core",
        ("a", "b"),
        (),
        None,
    )
    assert resolve_config(config.to_dict(), backends=["a", "b"]) == config
    beside = resolve_config({"grid": "core", "device": "cuda"}, backends=["a", "torch-flex", "vllm-triton"])
    here = [name for name in ("torch-flex", "vllm-triton") if name not in absent_adapters()]
    assert beside.backends == ("a", *here)
    assert "torch-flex" in here  # torch comes with the extra dev
    assert resolve_config({"grid": "core"}, backends=["a", "vllm-triton"]).backends == ("a",)
    named = resolve_config({"grid": "core", "backend": "b"}, backends=["a", "b"])
    assert named.backends == ("b",)
    with pytest.raises(UsageError, match="--page-sizes: must not be given, the grid gives all axes"):
        resolve_config({"grid": "core", "page-sizes": "16"}, backends=["a"])


CEILINGS = {"read_gbps": 4000.0, "copy_gbps": 4300.0, "launch_floor_ns": 1000.0}


def line(cell: Cell, times_ns: list[float], **changes: Any) -> dict[str, Any]:
    moved = decode_traffic(cell.problem, cell.batch.kv_lens).total_bytes
    return {
        **cell.axes(),
        "model": "tiny",
        "status": "ok",
        "reason": None,
        "run_ns": times_ns,
        "achieved_gbps": moved / median(times_ns),
        "timing": {"cold": True, "host_waited_longer": 0, "method": "graph"},
        "provenance": {"run_ns": "measured"},
        **changes,
    }


def test_against_ceilings_gives_fractions_of_what_was_measured() -> None:
    cell = cells(read_grid("core-small"), "rawkernel-mma")[0]
    moved = decode_traffic(cell.problem, cell.batch.kv_lens).total_bytes
    figures = against_ceilings(cell, line(cell, [150e3, 160e3, 170e3]), H200, CEILINGS)
    assert figures["read_fraction"] == pytest.approx(moved / 160e3 / 4000)
    assert figures["floor_ns"] == pytest.approx(moved / 4000 + 1000)
    assert figures["floor_fraction"] == pytest.approx((moved / 4000 + 1000) / 160e3)
    assert figures["flags"] == []
    assert figures["provenance"]["read_fraction"] == "measured"


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"timing": {"cold": False, "host_waited_longer": 0}}, "not cold"),
        ({"timing": {"cold": True, "host_waited_longer": 2}}, "the host waited"),
    ],
)
def test_against_ceilings_doubts(changes: Mapping[str, Any], flag: str) -> None:
    cell = cells(read_grid("core-small"), "rawkernel-mma")[0]
    (found,) = against_ceilings(cell, line(cell, [160e3] * 3, **changes), H200, CEILINGS)["flags"]
    assert flag in found


def test_against_ceilings_gives_no_speed_faster_than_memory() -> None:
    cell = cells(read_grid("core-small"), "rawkernel-mma")[0]
    measured = line(cell, [160e3] * 3, achieved_gbps=4121.0)
    found = against_ceilings(cell, measured, H200, CEILINGS)
    assert found["status"] == "inconclusive"
    assert found["reason"].startswith("no speed: 103.0% of the measured read ceiling, must be at most 103%")
    assert found["run_ns"] is None
    assert found["timing"]["refused_run_ns"] == measured["run_ns"]
    assert "status" not in against_ceilings(cell, {**measured, "achieved_gbps": 4119.0}, H200, CEILINGS)


def test_against_ceilings_leaves_alone_what_was_not_measured() -> None:
    cell = cells(read_grid("core-small"), "rawkernel-mma")[0]
    for words in ({"run_ns": "host"}, {}):
        assert against_ceilings(cell, line(cell, [1.0], provenance=words), H200, CEILINGS) == {}


def test_grid_table_shows_the_best_peer_of_the_same_problem(capsys: Any) -> None:
    own, peer, other = cells(read_grid("core-small"), "rawkernel-mma", "torch-sdpa", "flash")[:3]
    elsewhere = cells(read_grid("core-small"), "torch-sdpa")[1]
    lines = [
        line(own, [150e3], expected_floor_ns=124.9e3, predicted_ns=131.5e3, read_fraction=0.9),
        line(peer, [900e3], timing={"method": "stream"}),
        line(other, [300e3]),
        line(elsewhere, [1e3]),
        line(other, [1.0], status="unsupported", reason="no GPU", provenance={}, flags=[]),
    ]
    assert best_peer(lines[0], lines) == ("flash", 300e3)
    assert best_peer(lines[1], lines) is None
    print_grid_table(lines, {"ceilings": CEILINGS, "gpu": {"sm_mhz": 1980.0, "power_w": None}})
    shown = capsys.readouterr().out
    (row,) = [text for text in shown.splitlines() if "rawkernel-mma" in text]
    for text in ("150.0", "0.900", "131.5", "124.9", "flash 300.0"):
        assert text in row
    assert "launches not captured" in shown
    assert "unsupported: no GPU" in shown
    assert "read 4,000 GB/s, copy 4,300 GB/s; empty launch 1.00 us; 1,980 MHz" in shown


def test_ceilings_text_without_a_captured_launch() -> None:
    assert "empty launch not captured" in ceilings_text({"ceilings": {**CEILINGS, "launch_floor_ns": None}})
