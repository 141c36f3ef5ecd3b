# SPDX-License-Identifier: Apache-2.0
"""FlashInfer Trace: definitions, solutions and workloads are read, or refused in one line."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.device.registry import open_device
from pabench.errors import PabenchError, Unsupported, UsageError
from pabench.exchange.definition import definition_of
from pabench.exchange.paged import PagedAttention
from pabench.exchange.paged_definition import paged_attention
from pabench.exchange.solution import read_solution
from pabench.exchange.workload import case_of, own_workloads, read_workloads
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.recorded import keep
from pabench.problem.tensors import build_tensors
from pabench.subjects.registry import load_backend
from tests.support.trace_sets import definition, solution, source, write_set

SHAPES = [{"latent": latent, "prefill": prefill} for latent in (False, True) for prefill in (False, True)]


def attention_of(**shape: Any) -> PagedAttention:
    return paged_attention(definition_of(definition(**shape), "d"))


def write_tensors(path: Path, **arrays: np.ndarray[Any, Any]) -> None:
    names = {"int32": "I32", "int64": "I64", "float32": "F32", "uint16": "BF16"}
    head, data = {}, b""
    for name, array in arrays.items():
        end = len(data) + array.nbytes
        head[name] = {
            "dtype": names[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [len(data), end],
        }
        data += array.tobytes()
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def decode_workload(root: Path, **changed: Any) -> Path:
    """Three sequences of 7, 0 and 12 tokens in 11 pages of 4; ``changed`` are inputs."""
    write_tensors(
        root / "t.safetensors",
        kv_indptr=np.array([0, 2, 2, 5], np.int32),
        kv_indices=np.array([7, 3, 1, 0, 9], np.int32),
        kv_last_page_len=np.array([3, 0, 4], np.int32),
    )
    inputs: dict[str, Any] = {name: {"type": "random"} for name in ("q", "k_cache", "v_cache")}
    for name in ("kv_indptr", "kv_indices", "kv_last_page_len"):
        inputs[name] = {"type": "safetensors", "path": "t.safetensors", "tensor_key": name}
    inputs["sm_scale"] = {"type": "scalar", "value": 0.25}
    axes = {"batch_size": 3, "num_pages": 11, "len_indptr": 4, "num_kv_indices": 5}
    line = {
        "definition": "gqa_paged_decode_h4_ps4",
        "workload": {"uuid": "w-1", "axes": axes, "inputs": {**inputs, **changed}},
    }
    (root / "w.jsonl").write_text(json.dumps(line) + "\n")
    return root / "w.jsonl"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_inputs_come_back_as_the_case_they_were_made_of(shape: dict[str, bool]) -> None:
    attention = attention_of(**shape)
    for workload in own_workloads(attention):
        assert isinstance(workload.case, Case)
        tensors = build_tensors(workload.case)
        case, recording = attention.recorded(attention.arguments(tensors))
        keep(recording)
        again = build_tensors(case)
        assert case.batch == workload.case.batch
        assert case.problem.scale == workload.case.problem.scale
        assert again.q.tobytes() == tensors.q.tobytes()
        assert again.pool.storage.tobytes() == tensors.pool.storage.tobytes()
        assert workload.axes == attention.axes(again)


def test_workload_of_a_file_has_its_table_and_nan_where_nobody_reads(tmp_path: Path) -> None:
    attention = attention_of()
    case, recording = case_of(read_workloads(decode_workload(tmp_path))[0], attention, tmp_path)
    assert isinstance(case, Case)
    assert recording is not None
    keep(recording)
    tensors = build_tensors(case)
    assert case.batch.kv_lens == (7, 0, 12)
    assert tensors.layout.pages(0, 7).tolist() == [7, 3]
    dead = np.isnan(tensors.pool.k).all(axis=(2, 3))
    assert int((~dead).sum()) == 19
    assert not dead[7].any()
    assert dead[3].tolist() == [False] * 3 + [True]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"axes": {"x": {"type": "expr"}}}, "axes.x.type = 'expr': must be const or var"),
        ({"axes": {"x": {"type": "const", "value": 0}}}, "axes.x.value = 0: must be at least 1"),
        ({"inputs": {"q": {"shape": ["nowhere"], "dtype": "float32"}}}, "inputs.q.shape = 'nowhere'"),
        ({"inputs": {"q": {"shape": None, "dtype": "fp8"}}}, "inputs.q.dtype = 'fp8'"),
        ({"reference": None}, "reference = None"),
        ({"outputs": {}}, "outputs = {}: must name at least one"),
    ],
)
def test_definitions_that_break_a_rule_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        definition_of(definition(**changed), "d")
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["inputs"].pop("k_cache"), "is no paged attention"),
        (lambda d: d["inputs"].update(mask={"shape": None, "dtype": "bool"}), "input 'mask' is none of"),
        (lambda d: d["axes"].update(page_size={"type": "var"}), "axis page_size of k_cache must be const"),
        (lambda d: d["inputs"]["q"].update(dtype="float16"), "of float16, float32: must be one of"),
        (lambda d: d["outputs"].update(attn=d["outputs"].pop("output")), "must be output"),
    ],
)
def test_definitions_of_something_else_are_declined(change: Any, said: str) -> None:
    about = definition()
    change(about)
    with pytest.raises(Unsupported) as error:
        paged_attention(definition_of(about, "d"))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"k_cache": {"type": "safetensors", "path": "no.safetensors", "tensor_key": "k"}}, "cannot be read"),
        ({"kv_indptr": {"type": "random"}}, "must be safetensors"),
        (
            {"kv_indptr": {"type": "safetensors", "path": "t.safetensors", "tensor_key": "x"}},
            "tensor_key = 'x'",
        ),
        ({"sm_scale": {"type": "random"}}, "must be scalar"),
        ({"sm_scale": {"type": "scalar", "value": "a"}}, "must be a number"),
        (
            {
                "kv_last_page_len": {
                    "type": "safetensors",
                    "path": "t.safetensors",
                    "tensor_key": "kv_indices",
                }
            },
            "axis batch_size must be 3",
        ),
    ],
)
def test_workloads_that_break_a_rule_are_refused(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(PabenchError) as error:
        case_of(read_workloads(decode_workload(tmp_path, **changed))[0], attention_of(), tmp_path)
    assert said in str(error.value)


def test_tensors_beyond_the_end_of_their_file_are_refused(tmp_path: Path) -> None:
    file = decode_workload(tmp_path)
    whole = (tmp_path / "t.safetensors").read_bytes()
    (tmp_path / "t.safetensors").write_bytes(whole[:-4])
    with pytest.raises(UsageError, match="within the file"):
        case_of(read_workloads(file)[0], attention_of(), tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["spec"].update(entry_point="main.py"), "must be file.py::function"),
        (lambda s: s["spec"].update(entry_point="other.py::run"), "must be one of the sources main.py"),
        (lambda s: s["sources"][0].update(path="../main.py"), "must be a relative path"),
        (lambda s: s["sources"][0].update(content="def run(:"), "must be Python"),
        (lambda s: s.pop("author"), "author = None: is missing"),
        (lambda s: s["spec"].update(destination_passing_style="no"), "must be true or false"),
    ],
)
def test_solutions_that_break_a_rule_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    about = definition()
    one = solution(about)
    change(one)
    [file] = write_set(tmp_path, about, {**one, "name": "right"})
    with pytest.raises(UsageError) as error:
        read_solution(file)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (lambda s: s["spec"].update(language="cuda"), Unsupported, "language 'cuda'"),
        (
            lambda s: s.update(definition="gqa_paged_decode_h4"),
            UsageError,
            "did you mean 'gqa_paged_decode_h4_ps4'",
        ),
        (lambda s: s["spec"].update(entry_point="main.py::runs"), UsageError, "did you mean 'run'"),
        (lambda s: s["sources"][0].update(content="1 / 0"), UsageError, "ZeroDivisionError"),
    ],
)
def test_solutions_that_cannot_be_called_say_why(tmp_path: Path, change: Any, kind: Any, said: str) -> None:
    about = definition()
    one = solution(about)
    change(one)
    [file] = write_set(tmp_path, about, one)
    with pytest.raises(kind) as error:
        load_backend(str(file), open_device("emulated", must_run=False))
    assert said in str(error.value)


PASSED = """

def run_into(*given):
    output, lse = run(*given[:-2])
    given[-2][:], given[-1][:] = output, lse
"""


@pytest.mark.parametrize("way", ["tuple", "mapping", "passed", "package"])
def test_outputs_are_taken_as_the_solution_gives_them(tmp_path: Path, way: str) -> None:
    about = definition()
    text = source(about)
    spec: dict[str, Any] = {}
    if way == "mapping":
        text = text.replace("return output, lse", "return {'lse': lse, 'output': output}")
    if way == "passed":
        text, spec = text + PASSED, {"entry_point": "main.py::run_into", "destination_passing_style": True}
    one = solution(about, "right", text, **spec)
    if way == "package":
        one["sources"] = [
            {"path": "main.py", "content": "from parts.kernel import run\n"},
            {"path": "parts/kernel.py", "content": text},
        ]
    [file] = write_set(tmp_path, about, one)
    backend = load_backend(str(file), open_device("emulated", must_run=False))
    workload = own_workloads(attention_of())[1]
    assert isinstance(workload.case, Case)
    plan = backend.plan(build_tensors(workload.case))
    backend.run(plan)
    found = backend.fetch(plan)
    assert found.lse is not None
    assert found.out.shape == (3, 4, 16)
    assert np.isfinite(found.out).all()
    assert np.isfinite(found.lse).all()


@pytest.mark.parametrize("latent", [False, True])
def test_definitions_that_flashinfer_dumps_have_full_pages(latent: bool, tmp_path: Path) -> None:
    """Nothing says how full the last page is; tables are optional there, and asked for all the same."""
    about = definition(latent=latent)
    del about["inputs"]["kv_last_page_len"]
    about["inputs"]["return_lse"] = {"shape": None, "dtype": "int32", "optional": True}
    for name in ("kv_indptr", "kv_indices", "sm_scale"):
        about["inputs"][name]["optional"] = True
    attention = paged_attention(definition_of(about, "d"))
    assert isinstance(attention, PagedAttention)
    text = source(about).replace("    starts, first", "    assert return_lse is True\n    starts, first", 1)
    [file] = write_set(tmp_path, about, solution(about, "right", text))
    backend = load_backend(str(file), open_device("emulated", must_run=False))
    for workload in own_workloads(attention):
        assert isinstance(workload.case, Case)
        assert not any(length % 4 for length in workload.case.batch.kv_lens)
        tensors = build_tensors(workload.case)
        again, _ = attention.recorded(attention.arguments(tensors))
        assert again.batch == workload.case.batch
        plan = backend.plan(tensors)
        backend.run(plan)
        found = backend.fetch(plan)
        assert found.lse is not None
        assert np.isfinite(found.out).all()
    assert isinstance(workload.case, Case)
    odd = replace(workload.case, batch=Batch(kv_lens=(5,)))
    assert backend.capabilities.why_not(odd) == "pages that are not full: no input kv_last_page_len"
    with pytest.raises(UsageError, match="kv_indptr = None: is missing"):
        attention.recorded(
            {name: one for name, one in attention.arguments(tensors).items() if name != "kv_indptr"}
        )
