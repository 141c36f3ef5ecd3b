# SPDX-License-Identifier: Apache-2.0
"""Definitions of appends, merges, lists of slots and e4m3 caches: read, judged, or refused."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.checks.case_budget import CASE_BUDGETS
from pabench.checks.runner import CheckRunner
from pabench.checks.subject_facts import load_judged
from pabench.checks.suite import question_by_id
from pabench.checks.workloads import workload_question, workloads_of
from pabench.cli.main import run
from pabench.device.registry import open_device
from pabench.errors import PabenchError, Unsupported
from pabench.exchange.definition import definition_of
from pabench.exchange.stated import AnyCase, stated
from pabench.exchange.trace import check_trace
from pabench.exchange.workload import case_of, own_workloads, read_workloads
from pabench.problem.append import AppendCase
from pabench.problem.case import Case
from pabench.problem.merge import MergeCase
from pabench.problem.recorded import keep
from pabench.problem.tensors import build_tensors
from pabench.run.record import Status
from pabench.subjects.registry import load_backend
from tests.exchange.test_definitions import write_tensors
from tests.support.trace_kinds import KINDS, Kind
from tests.support.trace_sets import solution, write_set

SOLUTIONS = [(name, one) for name, kind in KINDS.items() for one in ("right", *kind.wrong)]


def files_of(root: Path, kind: Kind, *names: str) -> list[Path]:
    """Write a trace set of a definition with its right solution and wrong ones."""
    texts = {"right": kind.right} | {
        name: kind.right.replace(before, after) for name, (before, after) in kind.wrong.items()
    }
    assert len(set(texts.values())) == len(texts)
    about = kind.definition
    return write_set(root, about, *(solution(about, name, texts[name], **kind.spec) for name in names))


@pytest.mark.parametrize(("name", "which"), SOLUTIONS)
def test_right_solutions_pass_and_wrong_ones_fail(name: str, which: str, tmp_path: Path) -> None:
    kind = KINDS[name]
    [file] = files_of(tmp_path, kind, which)
    device = open_device("emulated", must_run=False)
    subject = load_judged("backend", str(file), device)
    runner = CheckRunner(
        device=device, case_budget=replace(CASE_BUDGETS["quick"], examples=8, shrink=False), seed=1
    )
    asked = workloads_of(str(file), None)
    assert asked is not None
    workloads = [workload_question(str(file), None, one.uuid) for one in asked.workloads]
    found = [runner.answer(one, subject).result for one in (question_by_id(kind.drawn), *workloads)]
    statuses = {one.status for one in found}
    if which == "right":
        assert statuses == {Status.PASSED}, [one.reason for one in found]
        assert all(one.cases for one in found)
    else:
        assert found[0].status in (Status.FAILED, Status.CRASHED)
        assert any(one.status is not Status.PASSED for one in found[1:])


def tables(**arrays: Any) -> dict[str, Any]:
    return {name: np.asarray(one, np.int32) for name, one in arrays.items()}


PAGED = tables(kv_indptr=[0, 2, 2, 5], kv_indices=[7, 3, 1, 0, 9], kv_last_page_len=[3, 0, 4])
APPENDED = PAGED | tables(batch_indices=[0, 2, 2, 2, 2, 2], positions=[6, 7, 8, 9, 10, 11])
GIVEN: dict[str, dict[str, Any]] = {
    "e4m3": PAGED,
    "lists": {"sparse_indices": np.full((3, 48), -1, np.int32)},
    "append": APPENDED,
    "append-latent": APPENDED,
    "merge": {},
    "merge-states": {},
}
GIVEN["lists"]["sparse_indices"][0, [2, 5, 9]] = [17, 3, 18]
GIVEN["lists"]["sparse_indices"][2, 0] = 43
AXES = {
    **{"batch_size": 3, "num_pages": 11, "len_indptr": 4, "num_kv_indices": 5, "num_tokens": 3},
    **{"nnz_kv": 6, "page_size": 4, "seq_len": 2, "num_states": 5},
}


def read(root: Path, name: str, axes: dict[str, int] | None = None, **changed: Any) -> tuple[AnyCase, Any]:
    """The case of a workload in a file; ``changed`` inputs are arrays, numbers, or as JSON has them."""
    about = KINDS[name].definition
    meant = stated(definition_of(about, "d"))
    arrays = {**GIVEN[name], **{key: one for key, one in changed.items() if isinstance(one, np.ndarray)}}
    write_tensors(root / "t.safetensors", **arrays)
    inputs: dict[str, Any] = {}
    for key, spec in about["inputs"].items():
        if spec["shape"] is None:
            inputs[key] = {"type": "scalar", "value": 0.5}
        elif key in arrays:
            inputs[key] = {"type": "safetensors", "path": "t.safetensors", "tensor_key": key}
        elif not spec.get("optional"):
            inputs[key] = {"type": "random"}
    inputs |= {key: one for key, one in changed.items() if isinstance(one, dict)}
    mine = {axis: AXES[axis] for axis, size in about["axes"].items() if size["type"] == "var"} | (axes or {})
    line = {"definition": about["name"], "workload": {"uuid": "w-1", "axes": mine, "inputs": inputs}}
    (root / "w.jsonl").write_text(json.dumps(line) + "\n")
    return case_of(read_workloads(root / "w.jsonl")[0], meant, root)


def test_workloads_of_files_are_the_cases_that_they_state(tmp_path: Path) -> None:
    case, recording = read(tmp_path, "e4m3")
    keep(recording)
    assert isinstance(case, Case)
    assert (case.problem.kv_dtype, case.problem.k_scale, case.problem.v_scale) == ("e4m3", (0.5,), (0.5,))
    assert np.isfinite(case.problem.decode_rows(build_tensors(case).pool.k[7], "k")).all()
    case, recording = read(tmp_path, "lists")
    keep(recording)
    assert isinstance(case, Case)
    assert case.batch.kv_lens == (8, 0, 4)
    again = stated(definition_of(KINDS["lists"].definition, "d")).arguments(build_tensors(case))  # type: ignore[call-arg, arg-type]
    assert again["sparse_indices"].tolist() == GIVEN["lists"]["sparse_indices"].tolist()
    assert np.isfinite(again["ckv_cache"].reshape(-1, 16)[[17, 3, 18, 43]]).all()
    for name in ("append", "append-latent"):
        append, _ = read(tmp_path, name)
        assert isinstance(append, AppendCase)
        assert append.slots == (14, 3, *range(36, 40))
        assert append.kv_lens == (7, 0, 12)
        assert append.q_lens == (1, 0, 5)
    for name, states in (("merge", 2), ("merge-states", 5)):
        merge, _ = read(tmp_path, name)
        assert isinstance(merge, MergeCase)
        assert (merge.num_states, merge.num_rows, merge.num_heads) == (states, 2, 3)


STORED = {"type": "safetensors", "path": "t.safetensors", "tensor_key": "kv_indptr"}


@pytest.mark.parametrize(
    ("name", "changed", "said"),
    [
        ("e4m3", {"k_scale": {"type": "random"}}, "k_scale.type = 'random': must be scalar"),
        ("e4m3", {"axes": {"heads": 3}}, "axes = 'heads': must be one of the variable axes batch_size"),
        ("e4m3", {"k_cache": {**STORED, "path": "gone.safetensors"}}, "cannot be read: no such file"),
        ("lists", {"sparse_indices": {"type": "random"}}, "must be safetensors: no random table is one"),
        (
            "lists",
            {"sparse_indices": np.full((3, 48), 44, np.int32)},
            "= 44: must be -1 or one of the 44 slots",
        ),
        ("lists", {"sparse_indices": np.full((3, 48), 7, np.int32)}, "must not be named twice"),
        ("lists", {"sparse_indices": np.full((3, 40), 7, np.int32)}, "axis topk must be 48"),
        ("append", {"append_key": np.zeros((6, 2, 16), np.int32)}, "must be random: an append is judged"),
        ("append", {"positions": np.arange(6, dtype=np.int32)}, "must be those of the last tokens"),
        ("append", {"batch_indices": np.asarray([2, 0, 2, 2, 2, 2], np.int32)}, "must be those of the last"),
        (
            "append",
            {"batch_indices": np.full(6, 3, np.int32)},
            "batch_indices = 3: must be a sequence, 0 to 2",
        ),
        ("append", {"batch_indices": np.full(6, 1, np.int32)}, "must not name more tokens than there are"),
        ("append", {"kv_indices": np.full(5, 11, np.int32)}, "indices[0] = 11: must be a page of the pool"),
        ("append", {"axes": {"nnz_kv": 7}}, "axis nnz_kv must be 7"),
        ("merge", {"s_a": {**STORED, "tensor_key": "s_a"}, "x": np.zeros(1, np.int32)}, "tensor_key = 's_a'"),
        ("merge-states", {"v": {"type": "scalar", "value": 1}}, "must be random or safetensors"),
    ],
)
def test_workloads_that_break_a_rule_are_refused(
    name: str, changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(PabenchError) as error:
        read(tmp_path, name, **changed)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("e4m3", lambda d: d["inputs"]["q"].update(dtype="bfloat16"), "queries, cache and output of"),
        ("e4m3", lambda d: d["inputs"]["v_cache"].update(dtype="float32"), "queries, cache and output of"),
        ("e4m3", lambda d: d["inputs"]["k_scale"].update(shape=["num_pages"]), "k_scale must be a scalar"),
        (
            "lists",
            lambda d: d["axes"].update(topk={"type": "var"}),
            "axis topk of sparse_indices must be const",
        ),
        ("lists", lambda d: d["inputs"].pop("sm_scale"), "no sm_scale"),
        ("append", lambda d: d["inputs"].pop("positions"), "no input positions, which appending takes"),
        (
            "append",
            lambda d: d["axes"].update(page_size={"type": "var"}),
            "page_size of paged_kv_cache must be",
        ),
        ("append", lambda d: d["inputs"]["append_key"].update(dtype="float32"), "rows and caches of float16"),
        (
            "append",
            lambda d: d["outputs"].update(lse=d["outputs"]["paged_kv_cache"]),
            "must be paged_kv_cache",
        ),
        ("append-both", lambda d: d["axes"].update(two={"type": "const", "value": 3}), "a second axis of 2"),
        ("append-latent", lambda d: d["axes"].update(head_dim_kpe={"type": "var"}), "axis head_dim_kpe"),
        (
            "merge",
            lambda d: d["inputs"].pop("s_b"),
            "inputs v_a, s_a, v_b: taken are v_a, s_a, v_b, s_b; v, s,",
        ),
        ("merge", lambda d: d["inputs"]["s_a"].update(dtype="float16"), "s_a must be float32"),
        (
            "merge",
            lambda d: d["axes"].update(num_heads={"type": "var"}),
            "num_heads and head_dim must be const",
        ),
        (
            "merge-in-place",
            lambda d: d["inputs"]["mask"].pop("optional"),
            "v_other, s_other, mask: taken are",
        ),
        ("merge-states", lambda d: d["inputs"]["s"].update(shape=["seq_len"]), "have unlike axes"),
    ],
)
def test_definitions_of_something_else_are_declined(name: str, change: Any, said: str) -> None:
    about = copy.deepcopy(KINDS[name].definition)
    change(about)
    with pytest.raises(Unsupported) as error:
        stated(definition_of(about, "d"))
    assert said in str(error.value)


@pytest.mark.slow
def test_each_kind_is_judged_exported_and_replayed_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = {}
    for name in ("lists", "append", "merge"):
        kind, wrong = KINDS[name], next(iter(KINDS[name].wrong))
        for which, status in (("right", "PASSED"), (wrong, "INCORRECT_NUMERICAL")):
            [file] = files_of(tmp_path, kind, which)
            named = {**json.loads(file.read_text()), "name": f"{name}-{which}"}
            file.unlink()
            write_set(tmp_path, kind.definition, named)
            expected[named["name"]] = status
    folder = tmp_path / "run"
    words = ["conformance", "--definitions", str(tmp_path), "--profile", "quick", "-k", "workload"]
    assert run([*words, "--out", str(folder)]) == 1
    capsys.readouterr()
    assert run(["export", str(folder), "--to", "flashinfer-trace"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    statuses: dict[str, set[str]] = {}
    for line in lines:
        check_trace(line)
        statuses.setdefault(line["solution"], set()).add(line["evaluation"]["status"])
    told = {name: max(found - {"PASSED"}, default="PASSED") for name, found in statuses.items()}
    assert told == expected
    for name in ("append", "merge"):
        [case, *_] = sorted((folder / "failures").glob(f"*workload-{name}*"))
        assert (case / "repro.py").is_file()
        for which, code in (("right", 0), (next(iter(KINDS[name].wrong)), 1)):
            solved = tmp_path / "solutions" / f"{name}-{which}.json"
            assert run(["replay", str(case), "--backend", str(solved)]) == code


def test_torch_solutions_get_a_cache_of_float8(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    kind = KINDS["e4m3"]
    text = kind.right.replace("import numpy as np", "import numpy as np\nimport torch", 1)
    text += "\n\nnumpys = run\n\n\ndef run(*given):\n"
    text += "    assert [one.dtype for one in given[1:3]] == [torch.float8_e4m3fn] * 2\n"
    text += "    bits = [one.view(torch.uint8) if one.dtype.itemsize == 1 else one for one in given[:6]]\n"
    text += "    found = numpys(*(one.numpy() for one in bits), *given[6:])\n"
    text += "    return tuple(torch.from_numpy(one) for one in found)\n"
    [file] = write_set(tmp_path, kind.definition, solution(kind.definition, "right", text))
    backend = load_backend(str(file), open_device("emulated", must_run=False))
    [first, *_] = own_workloads(stated(definition_of(kind.definition, "d")))
    assert isinstance(first.case, Case)
    plan = backend.plan(build_tensors(first.case))
    backend.run(plan)
    assert torch.isfinite(torch.from_numpy(backend.fetch(plan).out)).all()
