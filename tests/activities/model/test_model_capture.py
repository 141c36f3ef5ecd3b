# SPDX-License-Identifier: Apache-2.0
"""Captured activations: written by a model, read back, drawn from; and files that are no such thing."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.activities.model.capture import capture
from pabench.cli.main import run
from pabench.errors import InvalidCase, UsageError
from pabench.judge.reference import truth
from pabench.problem.batch import Batch
from pabench.problem.captured import Capture
from pabench.problem.case import Case, case_from_dict
from pabench.problem.dtypes import Array, decode, dtype_by_name
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import build_tensors, sequences_of
from pabench.workloads.captured import (
    VARIABLE,
    capture_bytes,
    capture_in_use,
    inputs_in_use,
    read_capture,
    sample_file,
)
from tests.support.tiny_model import TinyModel

WORDS = ("a first sequence of some tokens", "a second")
EXACT = NumericsProfile(p_dtype="float32", partial_dtype="float32", accumulation="blocked")


@cache
def tiny() -> Capture:
    model = TinyModel()
    return capture(model, [model.encode(text) for text in WORDS], layers=(1,), dtype="float16")


def case_of(found: Capture, **more: Any) -> Case:
    problem = found.problem(page_size=4, dtype="float32")
    fields = {
        "family": "captured",
        "inputs": found.id,
        "batch": Batch(kv_lens=(20, 3), q_lens=(2, 1)),
        **more,
    }
    return Case(problem=problem, **fields)


@pytest.fixture
def in_use(tmp_path: Path) -> Any:
    path = tmp_path / "tiny.npz"
    path.write_bytes(capture_bytes(tiny()))
    with inputs_in_use(path):
        yield path


def test_capture_is_what_attention_was_given() -> None:
    model, seen = TinyModel(), list[Array]()

    def attend(layer: int, q: Array, k: Array, v: Array) -> Array:
        seen.append(k)
        return np.zeros_like(q)

    found = capture(model, [model.encode(WORDS[1])], layers=(0,), dtype="float16")
    tokens = model.encode(WORDS[1])
    model.forward(tokens, range(len(tokens)), [0], attend)
    # the first layer's keys do not depend on attention
    assert np.array_equal(found.k[0], seen[0].astype(np.float16))
    assert (found.lengths, found.q.shape[2], found.k.shape[2:]) == ((len(WORDS[1]),), 3, (1, 16))


def test_capture_comes_back_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(capture_bytes(tiny()))
    first = path.read_bytes()
    assert read_capture(path).id == tiny().id
    path.write_bytes(capture_bytes(read_capture(path)))
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_captured_case_draws_from_the_file(in_use: Path) -> None:
    case = case_of(tiny())
    assert case_from_dict(json.loads(json.dumps(case.to_dict()))) == case
    rows = sequences_of(build_tensors(case))
    found = decode(tiny().k[0], dtype_by_name("float16")).astype(np.float32)
    # only the first sequence has 20 tokens
    assert np.array_equal(rows[0].keys, found[:20])
    assert any(np.array_equal(rows[1].keys, found[at : at + 3]) for at in tiny().indptr[:-1])
    queries = decode(tiny().q[0], dtype_by_name("float16")).astype(np.float32)
    assert np.array_equal(rows[0].queries, queries[18:20])
    # it is attention like any other
    assert np.isfinite(truth(build_tensors(case), EXACT).out).all()


def test_captured_case_needs_heads_and_lengths_of_the_capture(in_use: Path) -> None:
    with pytest.raises(InvalidCase, match="the capture has"):
        build_tensors(other_heads())
    with pytest.raises(InvalidCase, match="the longest captured sequence has 31 tokens"):
        build_tensors(case_of(tiny(), batch=Batch(kv_lens=(32,))))
    with pytest.raises(InvalidCase, match="no file of captured activations"):
        build_tensors(case_of(tiny(), inputs="0123456789abcdef"))


def other_heads() -> Case:
    case = case_of(tiny())
    return replace(case, problem=replace(case.problem, num_qo_heads=2))


def test_captured_case_names_its_inputs() -> None:
    with pytest.raises(InvalidCase, match="must name the inputs of family"):
        case_of(tiny(), inputs=None)
    with pytest.raises(InvalidCase, match="must name the inputs of family"):
        case_of(tiny(), family="normal")


def test_inputs_in_use_end_with_the_block(in_use: Path) -> None:
    assert capture_in_use().id == tiny().id
    with inputs_in_use(None) as found:
        assert found.id == tiny().id
    assert os.environ[VARIABLE] == str(in_use)


def broken(path: Path, kind: str) -> Path:
    """A file that is no capture."""
    path.write_bytes(capture_bytes(tiny()))
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    about = json.loads(str(arrays["about"]))
    if kind == "no archive":
        path.write_bytes(b"PK\x03\x04 not really")
        return path
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-200])
        return path
    if kind == "an array is missing":
        del arrays["v"]
    elif kind == "an array too many":
        arrays["more"] = np.zeros(3)
    elif kind == "pickled":
        arrays["q"] = np.array([{"a": 1}], dtype=object)
    elif kind == "not finite":
        arrays["k"][0, 0, 0, 0] = np.nan
    elif kind == "other shape":
        arrays["k"] = arrays["k"][:, :-1]
    elif kind == "other dtype":
        arrays["q"] = arrays["q"].astype(np.float32)
    about |= {
        "no schema": {"schema": 2},
        "indptr falls": {"indptr": [0, 39, 31]},
        "indptr is text": {"indptr": "0,1"},
        "scale is text": {"sm_scale": "large"},
        "unknown dtype": {"dtype": "float8"},
    }.get(kind, {})
    if kind == "about lacks":
        del about["layers"]
    arrays["about"] = np.array("{" if kind == "about is no JSON" else json.dumps(about))
    np.savez_compressed(path, **arrays)
    return path


KINDS = (
    *("no archive", "cut", "an array is missing", "an array too many", "pickled", "not finite"),
    *("other shape", "other dtype", "no schema", "indptr falls", "indptr is text", "scale is text"),
    *("unknown dtype", "about lacks", "about is no JSON"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_refuse_what_is_no_capture(kind: str, tmp_path: Path) -> None:
    path = broken(tmp_path / "bad.npz", kind)
    with pytest.raises(UsageError, match="no file of captured activations") as caught:
        read_capture(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_inputs_refuse_a_bomb_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pabench.workloads.captured.MAX_BYTES", 1000)
    (tmp_path / "large.npz").write_bytes(capture_bytes(tiny()))
    monkeypatch.setattr("zipfile.ZipFile.open", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(UsageError, match="must be at most 1,000"):
        read_capture(tmp_path / "large.npz")


def test_inputs_option_refuses_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--device", "emulated", "--profile", "quick", "--artifacts", str(tmp_path / "out")]
    assert run(["conformance", *words, "--inputs", str(tmp_path / "none.npz")]) == 4
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "there is no such file" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layers", [(), (2,), (-1,), (0, 0)])
def test_capture_refuses_layers_that_are_not_there(layers: tuple[int, ...]) -> None:
    with pytest.raises(InvalidCase, match="layers"):
        capture(TinyModel(), [(1, 2)], layers=layers, dtype="float16")


def test_sample_is_of_the_model_and_small() -> None:
    sample = read_capture(sample_file())
    assert sample.name == "SmolLM2-135M-Instruct"
    assert (sample.q.shape[2], *sample.k.shape[2:]) == (9, 3, 64)
    assert sample_file().stat().st_size < 500_000
    with zipfile.ZipFile(sample_file()) as archive:
        assert len(archive.namelist()) == 4
    # what random data lacks: a key whose size is many times the others'
    keys = np.abs(decode(sample.k, dtype_by_name(sample.dtype)))
    assert keys.max() > 10 * np.median(keys)


def test_sweep_checks_cells_with_captured_activations(in_use: Path, tmp_path: Path) -> None:
    words = ["sweep", "--page-sizes", "8", "--lengths", "fixed:len=50", "--batch", "2", "--heads", "3:1"]
    words += ["--backend", "torch-sdpa", "--device", "emulated", "--inputs", str(in_use), "--in-process"]
    assert run([*words, "--head-dim", "16", "--out", str(tmp_path / "out")]) == 0
    (line,) = map(json.loads, (tmp_path / "out" / "journal.jsonl").read_text().splitlines())
    # four families of 50 tokens twice, one over high pages, and the captured one, cut to its longest
    assert line["details"]["check"]["tokens"] == 5 * 100 + 2 * 31
    assert run([*words, "--head-dim", "32", "--out", str(tmp_path / "none")]) == 4
    assert not (tmp_path / "none").exists()
