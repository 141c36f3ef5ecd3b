# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of vLLM, SGLang and ours: right where they are, and seen where they are not.

They run in Triton's interpreter here.  The tests skip where a package is not installed; ``make test-peers``
installs them all.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pabench.checks.failures import load_case
from pabench.checks.ledger import Deviation, shipped_ledger
from pabench.checks.outcome import Outcome
from pabench.checks.registry import check_by_id
from pabench.errors import EnvironmentRefused, Unsupported
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.append import AppendCase
from pabench.problem.merge import MergeCase
from pabench.subjects.backends.adapters import triton_host as hosts
from pabench.subjects.backends.adapters.table import ADAPTERS
from pabench.subjects.backends.adapters.triton_peers import SGLANG, SGLANG_PAGES, TRITON, UNIFIED, VLLM
from pabench.subjects.backends.base import Backend, attend
from pabench.subjects.peers.package import PEERS_VARIABLE, ThirdPartyPackage
from pabench.subjects.registry import load_backend
from tests.support.probe import DEVICE

NAMES = [name for name, adapter in ADAPTERS.items() if TRITON in adapter.peers]
HEADS: dict[str, Any] = {"num_qo_heads": 4, "num_kv_heads": 2, "head_dim": 16, "page_size": 8}


def need(*peers: ThirdPartyPackage) -> None:
    for peer in peers:
        try:
            peer.find()
        except Unsupported as lacking:
            pytest.skip(str(lacking))


def backend(name: str) -> Backend:
    need(*ADAPTERS[name].peers)
    return load_backend(name, DEVICE)


def asked(kv_lens: tuple[int, ...], q_lens: tuple[int, ...] | None = None, **fields: Any) -> Case:
    problem = Problem(**HEADS | fields)
    return Case(problem=problem, batch=Batch(kv_lens=kv_lens, q_lens=q_lens), poison="nan", seed=5)


def judged(subject: Backend, case: Case) -> Outcome:
    return check_by_id("decode").run(case, subject, DEVICE)


SLOPES, SINKS = (0.5, 0.25, -0.5, 0.125), (1.0, -2.0, 40.0, 0.0)
CASES = {
    "ragged": asked((9, 1)),
    "half": asked((33,), dtype="float16"),
    "soft-cap": asked((20,), soft_cap=2.0),
    "window": asked((40,), window=3),
    "alibi": asked((20,), alibi_slopes=SLOPES),
    "sinks": asked((20,), sinks=SINKS),
    "fp8-kv": asked((20,), kv_dtype="e4m3", k_scale=(0.25,), v_scale=(3.0,)),
    "chunk": asked((9, 4), (3, 2)),
    "prompt": asked((5,), (5,)),
    "window over rows": asked((30,), (3,), window=5),
    "not causal": asked((12,), (3,), causal=False),
    "odd heads": asked((9,), num_qo_heads=7, num_kv_heads=1, head_dim=80, page_size=3),
}
NOT_OFFERED = {
    "triton": set(),
    "vllm-triton": set(),
    "vllm-triton-split": {"not causal"},
    "vllm-triton-chunked": {"soft-cap", "fp8-kv", "not causal"},
    "vllm-triton-decode": {
        *("window", "alibi", "sinks", "chunk", "prompt", "window over rows", "not causal"),
    },
    "sglang-triton": {"alibi", "fp8-kv", "chunk", "prompt", "window over rows", "not causal"},
    "sglang-triton-extend": {"alibi", "fp8-kv"},
}
KNOWN = {"vllm-triton-chunked": {"window", "window over rows"}}
"""Deviations that the ledger names: values before the window are not masked."""


@pytest.mark.parametrize("name", NAMES)
def test_triton_kernels_are_right_on_what_they_declare(name: str) -> None:
    subject = backend(name)
    refused = set()
    for label, case in CASES.items():
        if reason := subject.capabilities.why_not(case):
            assert reason.startswith("no "), reason
            refused.add(label)
            continue
        outcome = judged(subject, case)
        assert outcome.passed == (label not in KNOWN.get(name, ())), f"{label}: {outcome.text}"
    assert refused == NOT_OFFERED[name]


@pytest.mark.parametrize("name", NAMES)
def test_triton_adapters_say_how_they_run_and_what_is_too_much(name: str) -> None:
    subject = backend(name)
    assert subject.mode == "interpreted"  # type: ignore[attr-defined]
    assert subject.capabilities.dtypes == {"float32", "float16"}
    crowd = asked((100,) * 20)
    assert "interpreted, at most 20 steps a launch: has " in str(subject.capabilities.why_not(crowd))
    with pytest.raises(Unsupported, match="at most 20 steps"):
        attend(subject, build_tensors(crowd))


@pytest.mark.parametrize("name", ["triton", "vllm-triton", "vllm-triton-chunked"])
def test_more_heads_than_a_tile_of_triton_holds_are_refused(name: str) -> None:
    crowd = asked((1,), num_qo_heads=2**16, num_kv_heads=1)
    assert backend(name).capabilities.why_not(crowd) == "no tile of 2097152 elements: at most 1048576"


def test_triton_adapter_runs_a_plan_again() -> None:
    for name in ("vllm-triton-chunked", "sglang-triton"):
        subject = backend(name)
        plan = subject.plan(build_tensors(CASES["ragged"]))
        subject.run(plan)
        first = subject.fetch(plan).out.tobytes()
        subject.run(plan)
        assert subject.fetch(plan).out.tobytes() == first


def test_vllm_writes_tokens_bit_for_bit() -> None:
    subject = backend("vllm-triton")
    for layout, interleaved in (("NHD", False), ("HND", True)):
        case = AppendCase(
            problem=Problem(**HEADS | {"dtype": "float16"}),
            num_pages=4,
            slots=(3, -1, 17, 8),
            kv_layout=layout,
            interleaved=interleaved,
            seed=2,
        )
        outcome = check_by_id("append").run(case, subject, DEVICE)
        assert outcome.passed, outcome.text


@pytest.mark.parametrize("name", ["vllm-triton", "sglang-triton"])
def test_states_are_merged(name: str) -> None:
    subject = backend(name)
    for states, dtype in ((1, "float32"), (2, "float16"), (5, "float16")):
        case = MergeCase(
            num_states=states, num_rows=2, num_heads=2, head_dim=80, dtype=dtype, spread="close", seed=1
        )
        outcome = check_by_id("merge").run(case, subject, DEVICE)
        assert outcome.passed, outcome.text


# --- what is wrong is seen ----------------------------------------------------------------------------------


def test_rows_without_keys_of_vllm_are_seen() -> None:
    outcome = judged(backend("vllm-triton"), asked((3,), (5,)))
    assert "got nan, expected 0 within 0; the row sees no key (kv_len 3)" in outcome.text
    assert judged(backend("vllm-triton-split"), asked((3,), (5,))).passed


@pytest.mark.parametrize(
    "deviation",
    [
        entry
        for entry in shipped_ledger("backend")
        if entry.adapter in NAMES and load_case(entry.folder).device == "emulated"
    ],
    ids=lambda entry: entry.case,
)
def test_triton_kernels_do_what_the_ledger_says(deviation: Deviation) -> None:
    subject = backend(deviation.adapter)
    saved = load_case(deviation.folder)
    assert saved.subject == deviation.adapter
    outcome = check_by_id(saved.check).run(saved.case, subject, DEVICE)
    named = [entry for entry in shipped_ledger("backend") if entry.adapter == deviation.adapter]
    # a deviation has one name
    assert [entry.name for entry in named if entry.explains(saved.check, saved.case, outcome)] == [
        deviation.name
    ]
    assert (deviation.folder / "verdict.txt").read_text().strip() == outcome.text


FAULTS = {
    # the boundary mask of the last tile, of keys and values alike
    "tile_mask = seq_offset < max_seq_prefix_len": "tile_mask = seq_offset >= 0",
    # one key too few in it
    "seq_mask = seq_offset[None, :] <= query_abs_pos": "seq_mask = seq_offset[None, :] < query_abs_pos",
}


@pytest.mark.parametrize("fault", range(len(FAULTS)))
def test_fault_in_a_copy_of_vllms_kernel_is_caught(
    fault: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(VLLM, TRITON)
    folder = VLLM.find().folder
    before, after = list(FAULTS.items())[fault]
    kernels = tmp_path.joinpath(*UNIFIED.split(".")[:-1])
    kernels.mkdir(parents=True)
    edits = 0
    for file in (folder / kernels.relative_to(tmp_path)).glob("*.py"):
        text = file.read_text("utf-8")
        if file.name in ("triton_unified_attention.py", "triton_attention_helpers.py") and before in text:
            edits += 1
            (kernels / file.name).write_text(text.replace(before, after), "utf-8")
        else:
            (kernels / file.name).symlink_to(file)
    assert edits == 1
    for found in (*folder.glob("vllm-*.dist-info"), *TRITON.find().folder.glob("triton*")):
        (tmp_path / found.name).symlink_to(found)
    # a page as long as a tile, so that what is read too much lies in the last page
    case = asked((17,), page_size=32)
    assert judged(load_backend("vllm-triton", DEVICE), case).passed
    monkeypatch.setenv(PEERS_VARIABLE, str(tmp_path))
    assert not judged(load_backend("vllm-triton", DEVICE), case).passed


# --- bad surroundings ---------------------------------------------------------------------------------------


def test_triton_imported_for_the_other_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = SimpleNamespace(sum=SimpleNamespace())
    stub = SimpleNamespace(load=lambda: {"triton.language": compiled})
    monkeypatch.setattr(hosts, "TRITON", stub)
    monkeypatch.setenv(hosts.INTERPRET, "0")
    with pytest.raises(Unsupported, match="triton was imported before with TRITON_INTERPRET=0"):
        hosts.triton_host("triton", DEVICE)


def test_triton_on_a_cuda_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(EnvironmentRefused, match="finds no CUDA device"):
        hosts.triton_host("triton", SimpleNamespace(name="cuda"))


def test_a_kernel_file_that_cannot_be_imported_is_unsupported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(VLLM, TRITON)
    kernels = tmp_path.joinpath(*UNIFIED.split(".")[:-1])
    kernels.mkdir(parents=True)
    (kernels / "triton_unified_attention.py").write_text("import nothing_of_that_name\n")
    for found in (*VLLM.find().folder.glob("vllm-*.dist-info"), *TRITON.find().folder.glob("triton*")):
        (tmp_path / found.name).symlink_to(found)
    monkeypatch.setenv(PEERS_VARIABLE, str(tmp_path))
    with pytest.raises(
        Unsupported, match=r"vllm 0\.33\.0 .* cannot be imported: ModuleNotFoundError: .*; pip"
    ):
        load_backend("vllm-triton", DEVICE)


# --- SGLang's page-allocator kernels ------------------------------------------------------------------------


@pytest.mark.parametrize("page_size", [1, 4, 16])
def test_sglang_page_kernels_give_the_slots_of_new_tokens(page_size: int) -> None:
    need(SGLANG, TRITON)
    import torch

    hosts.triton_host("sglang-triton", DEVICE)
    kernels = SGLANG.load()[SGLANG_PAGES]
    free = np.array([7, 3, 9, 1, 12, 5, 20, 2, *range(30, 60)], np.int64)
    for before, after in (([0, 5, 16, 3], [9, 6, 33, 3]), ([4, 15, 16, 31], [5, 16, 17, 32])):
        rows, taken, last, wanted = [], 0, [], []
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            held = [100 + 10 * index + page for page in range(-(-old // page_size))]
            more = -(-new // page_size) - len(held)
            rows.append([*held, *free[taken : taken + more].tolist()])
            taken += more
            slots = [rows[-1][t // page_size] * page_size + t % page_size for t in range(new)]
            last.append(slots[old - 1] if old else -1)
            wanted += slots[old:]
        upper = 4  # a power of two, no less than the batch
        out = torch.full((len(wanted),), -7, dtype=torch.int64)
        arrays = [torch.tensor(numbers) for numbers in (before, after, last, free)]
        kernels.alloc_extend_kernel[(len(before),)](*arrays, out, upper, page_size)
        assert out.tolist() == wanted
        if all(new == old + 1 for old, new in zip(before, after, strict=True)):
            out = torch.full((len(wanted),), -7, dtype=torch.int64)
            kernels.alloc_decode_kernel[(len(before),)](*arrays[1:], out, upper, page_size)
            assert out.tolist() == wanted


def test_the_interpreter_is_asked_for_before_triton_is_imported() -> None:
    need(TRITON)
    hosts.triton_host("triton", DEVICE)
    assert os.environ[hosts.INTERPRET] == "1"
