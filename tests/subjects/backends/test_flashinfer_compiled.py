# SPDX-License-Identifier: Apache-2.0
"""FlashInfer's kernels compiled from its wheel, on the PTX device: no GPU.

What needs the wheel and nvcc skips without them; ``make test-peers`` installs both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.cli.main import run
from pabench.device.checked import KernelFindings
from pabench.device.ptx.device import CheckedPtxDevice
from pabench.device.ptx.nvcc import compile_with_nvcc
from pabench.device.registry import open_device
from pabench.errors import EXIT_OK, CompileError, EnvironmentRefused, Unsupported
from pabench.judge.reference import truth
from pabench.judge.verdict import judge
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.subjects.backends.adapters.flashinfer_tiles import CHUNK, Tiles, plan_tiles
from pabench.subjects.backends.adapters.flashinfer_works import TILE, WHOLE, Works, plan_works
from pabench.subjects.backends.adapters.table import ADAPTERS
from pabench.subjects.backends.base import attend
from pabench.subjects.registry import load_backend
from tests.support.peer_backends import install
from tests.support.probe import DEVICE

NAMES = [name for name, adapter in ADAPTERS.items() if adapter.on_ptx]
ROUNDING = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
STEP = "ptx:sm_80:lockstep"
PLAIN = {"num_qo_heads": 4, "num_kv_heads": 2, "head_dim": 64}
LATENT = {
    "num_qo_heads": 4,
    "num_kv_heads": 1,
    "head_dim": 576,
    "head_dim_v": 512,
    "latent": True,
    "sm_scale": 0.07,
}


def need(name: str, device: str) -> None:
    try:
        ADAPTERS[name].check(name, device)
    except Unsupported as lacking:
        pytest.skip(str(lacking))


def judged(folder: Path, name: str, device: str, checks: str) -> list[dict[str, Any]]:
    need(name, device)
    told = folder / "told.json"
    words = ["--backend", name, "--device", device, "-k", checks, "--json", str(told), "--deadline", "600"]
    assert run(["conformance", "--profile", "quick", *words, "--out", str(folder / "run")]) == EXIT_OK
    results: list[dict[str, Any]] = json.loads(told.read_text())["results"]
    assert {(one["version"], one["mode"]) for one in results} == {
        (ADAPTERS[name].version(), "ptx, in step" if device == STEP else "ptx")
    }
    return results


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "device"), [("flashinfer-decode", "ptx:sm_80"), ("flashinfer", STEP), ("flashinfer-mla", STEP)]
)
def test_kernels_are_right_with_whole_and_with_split_keys(name: str, device: str, dtype: str) -> None:
    need(name, device)
    on: Any = open_device(device)
    shape: dict[str, Any] = LATENT if name == "flashinfer-mla" else PLAIN
    problem = Problem(page_size=16, dtype=dtype, **shape)
    backend = load_backend(name, on)
    for kv_lens, q_lens in (((5, 0, 140), None), ((5, 140, CHUNK + 44), (3, 1, 7))):
        rows = None if name == "flashinfer-decode" else q_lens
        batch = Batch(kv_lens=kv_lens) if rows is None else Batch(kv_lens=kv_lens, q_lens=rows)
        tensors = build_tensors(Case(problem=problem, batch=batch, poison="nan"))
        given = attend(backend, tensors)
        whole = truth(tensors, backend.profile)
        verdict = judge(tensors, given.out, None, backend.profile, reference=whole, allow_missing_lse=True)
        assert verdict.passed, verdict.text
        # on tensor cores the sum is one of rounded weights, as the ledger says
        seen = np.isfinite(whole.lse)
        assert given.lse is not None
        lse = given.lse * backend.profile.lse_unit
        assert np.array_equal(np.isneginf(lse), ~seen)
        assert np.abs(lse[seen] - whole.lse[seen]).max() < ROUNDING[dtype]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "device", "checks", "status"),
    [
        ("flashinfer", STEP, "prefill[causal] or append-paged or merge", {"passed", "known-failure"}),
        ("flashinfer", "ptx:sm_80", "prefill[causal]", {"known-failure"}),
        ("flashinfer-decode", "ptx:sm_80", "decode[window]", {"known-failure"}),
        ("flashinfer-mla", STEP, "decode[needle]", {"passed"}),
        ("flashinfer-mla", STEP, "decode[spotlight]", {"known-failure"}),
    ],
)
def test_runs_say_what_is_right_and_what_the_ledger_knows(
    name: str, device: str, checks: str, status: set[str], tmp_path: Path
) -> None:
    results = judged(tmp_path, name, device, checks)
    assert {one["status"] for one in results} - {"unsupported"} == status, results


@pytest.mark.slow
def test_prefill_relies_on_lanes_in_step_and_both_lines_are_named() -> None:
    need("flashinfer", "ptx:sm_80")
    # it also reads shared memory that nobody wrote, and masks what came of it
    backend = load_backend("flashinfer", CheckedPtxDevice(checks=("race",)))
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=64, page_size=16, dtype="float16")
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(20,), q_lens=(9,)), poison="nan"))
    with pytest.raises(KernelFindings, match="right only while the lanes of a warp run in step") as caught:
        attend(backend, tensors)
    told = [str(one) for one in caught.value.findings if "run in step" in one.text]
    places = ("write at prefill.cuh:2206 ", "read at permuted_smem.cuh:185 ", "bytes of the result differ")
    assert [one for one in told if all(place in one for place in places)], told


@pytest.mark.slow
def test_attention_over_latent_caches_relies_on_lanes_in_step_and_blocks_meet_without_a_race() -> None:
    need("flashinfer-mla", "ptx:sm_80")
    backend = load_backend("flashinfer-mla", CheckedPtxDevice(checks=("race",)))
    problem = Problem(page_size=16, dtype="float16", **LATENT)  # type: ignore[arg-type]
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(40,)), poison="nan"))
    with pytest.raises(KernelFindings) as caught:
        attend(backend, tensors)
    told = [str(one) for one in caught.value.findings]
    places = ("run in step", "write at mla.cuh:887 ", "read at permuted_smem.cuh:185 ")
    assert [one for one in told if all(place in one for place in places)], told
    # parts that some blocks wrote are merged by others, behind a sync of the whole grid
    assert not [one for one in told if "two blocks" in one], told


@pytest.mark.slow
def test_memory_that_a_structure_points_to_has_its_names() -> None:
    need("flashinfer-decode", "ptx:sm_80")
    device = CheckedPtxDevice(checks=(), count=True)
    problem = Problem(num_qo_heads=2, num_kv_heads=1, head_dim=64, page_size=16, dtype="float16")
    attend(
        load_backend("flashinfer-decode", device),
        build_tensors(Case(problem=problem, batch=Batch(kv_lens=(20,)))),
    )
    (counted,) = (one for name, one in device.counters.items() if "BatchDecode" in name)
    assert counted.loaded_bytes("k", "v") == 20 * 2 * 64 * 2
    assert counted.load_requests("block_table") > 0


def covered(tiles: Tiles, q_lens: list[int], group: int, tile: int) -> dict[tuple[int, int], set[int]]:
    """Return the chunks of each sequence and row that some block has."""
    found: dict[tuple[int, int], set[int]] = {}
    for sequence, row, key in zip(tiles.requests, tiles.rows, tiles.keys, strict=True):
        for packed in range(row * tile, min((row + 1) * tile, q_lens[sequence] * group)):
            found.setdefault((sequence, packed // group), set()).add(key)
    return found


@pytest.mark.parametrize("page_size", [1, 16, 48])
@pytest.mark.parametrize(("group", "tile"), [(1, 16), (4, 64), (3, 16)])
@pytest.mark.parametrize("kv_lens", [[5, 0, 140], [5, 2 * CHUNK + 1, 140, 0]])
def test_tiles_cover_every_row_and_key_once(
    page_size: int, group: int, tile: int, kv_lens: list[int]
) -> None:
    q_lens = [3, 40, 1, 2][: len(kv_lens)]
    tiles = plan_tiles(kv_lens, q_lens, group=group, tile=tile, page_size=page_size)
    assert tiles.chunk % page_size == 0
    split = max(kv_lens) > tiles.chunk
    assert bool(tiles.states) == split
    found = covered(tiles, q_lens, group, tile)
    assert len(found) == sum(q_lens)
    chunks = [max(1, -(-n // tiles.chunk)) if split else 1 for n in kv_lens]
    for (sequence, _), keys in found.items():
        assert keys == set(range(chunks[sequence]))
    assert np.diff(tiles.starts).tolist() == [rows * n for rows, n in zip(q_lens, chunks, strict=True)]
    if split:
        states = [n for rows, n in zip(q_lens, chunks, strict=True) for _ in range(rows)]
        assert np.diff(tiles.states).tolist() == states


def test_tiles_of_a_window_are_those_of_the_keys_it_shows() -> None:
    wide = plan_tiles([4 * CHUNK], [1], group=1, tile=16, page_size=16)
    narrow = plan_tiles([4 * CHUNK], [1], group=1, tile=16, page_size=16, window=CHUNK)
    assert (len(wide.keys), len(narrow.keys)) == (4, 2)


def seen_by(works: Works, heads: int) -> dict[int, list[tuple[int, int]]]:
    """Return the ranges of keys that blocks have for each row times head of the output, in order."""
    found: dict[int, list[tuple[int, int]]] = {}
    for one in (work for group in works.works for work in group):
        for packed in range(one.first, min(one.first + works.across * TILE, one.rows * heads)):
            found.setdefault(one.row * heads + packed, []).append((one.start, one.end))
    return {row: sorted(ranges) for row, ranges in found.items()}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", [1, 16, 128])
@pytest.mark.parametrize("kv_lens", [[5, 0, 140], [3 * CHUNK + 1, 40, 2]])
def test_works_cover_every_row_and_key_once_and_merge_what_was_split(
    kv_lens: list[int], heads: int, causal: bool
) -> None:
    q_lens, blocks = [3, 1, 2], 8
    works = plan_works(kv_lens, q_lens, [0, 9, 20], heads=heads, causal=causal, blocks=blocks)
    assert len(works.works) * works.across == blocks
    assert len(works.merges) <= blocks
    found = seen_by(works, heads)
    assert sorted(found) == list(range(sum(q_lens) * heads))
    first = np.cumsum([0, *q_lens])
    for at, ranges in found.items():
        ends = [0, *(end for _, end in ranges)]
        assert [start for start, _ in ranges] == ends[:-1]
        sequence = int(np.searchsorted(first, at // heads, "right")) - 1
        hidden = q_lens[sequence] - 1 - (at // heads - first[sequence]) if causal else 0
        assert max(0, kv_lens[sequence] - hidden) <= ends[-1] <= kv_lens[sequence]
    merged = [row for one in works.merges for row in range(one.start, one.end)]
    assert sorted(merged) == [at for at, ranges in sorted(found.items()) if len(ranges) > 1]
    parts = {one.part for group in works.works for one in group} - {WHOLE}
    assert len(parts) == sum(one.part != WHOLE for group in works.works for one in group)
    for one in works.merges:
        count = len(found[one.start])
        assert (one.last - one.part + one.stride - 1) // one.stride == count
        assert one.last <= works.parts
    assert works.parts == sum(len(ranges) for ranges in found.values() if len(ranges) > 1)


def test_what_is_missing_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PABENCH_PEERS", str(tmp_path))
    install(tmp_path, "flashinfer", "0.7.2.post1", distribution="flashinfer-python")
    with pytest.raises(Unsupported, match=r"needs a GPU: .* or --device ptx:sm_80 for its compiled code"):
        load_backend("flashinfer", DEVICE)
    ptx: Any = open_device("ptx:sm_80")
    words = "pip install --no-deps --target .* nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88"
    with pytest.raises(Unsupported, match=f"nvidia-cuda-nvcc is not installed: {words}"):
        load_backend("flashinfer", ptx)
    install(tmp_path, "nvidia", "13.0.88", distribution="nvidia-cuda-nvcc")
    with pytest.raises(Unsupported, match=f"nvidia-nvvm, the other half of nvcc, .*: {words}"):
        load_backend("flashinfer-decode", ptx)


def test_nvcc_tells_its_first_error_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PABENCH_CACHE", str(tmp_path / "cache"))
    source, nvcc = tmp_path / "kernel.cu", tmp_path / "nvcc"
    source.touch()
    nvcc.write_text("#!/bin/sh\necho 'kernel.cu(3): error: one\nkernel.cu(9): error: two' >&2; exit 2\n")

    def compiled() -> str:
        return compile_with_nvcc(nvcc, source, "sm_80", defines={}, key="")

    with pytest.raises(EnvironmentRefused, match="nvcc cannot be run"):
        compiled()
    nvcc.chmod(0o755)
    with pytest.raises(CompileError, match=r"^kernel\.cu for sm_80 does not compile: .*\(3\): error: one$"):
        compiled()
    nvcc.write_text('#!/bin/sh\nfor last; do :; done\necho made > "$last"\n')
    assert compiled() == "made\n"
    nvcc.write_text("#!/bin/sh\nexit 1\n")
    assert compiled() == "made\n"
