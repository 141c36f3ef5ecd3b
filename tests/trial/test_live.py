# SPDX-License-Identifier: Apache-2.0
"""A kernel in service: one call in N is judged apart, and a wrong one stays as a case that replays."""

import json
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pabench.cli.main import run
from pabench.errors import PabenchError
from pabench.exchange.definition import definition_of
from pabench.exchange.paged_definition import paged_attention
from pabench.exchange.workload import own_workloads
from pabench.problem.case import Case
from pabench.problem.tensors import build_tensors
from pabench.trial.live import judged
from tests.support.trace_kinds import KINDS
from tests.support.trace_sets import definition, solution, source, write_set

ABOUT = definition()


def kernel(mistake: str | None = None, **shape: Any) -> Any:
    module = ModuleType("kernel")
    exec(source(definition(**shape), mistake), vars(module))
    return module.run


def call(**shape: Any) -> dict[str, Any]:
    """The inputs of one call, with a list of pages longer than what is in use, as servers have it."""
    attention = paged_attention(definition_of(definition(**shape), "d"))
    case = own_workloads(attention)[2].case
    assert isinstance(case, Case)
    given = attention.arguments(build_tensors(case))
    return {**given, "kv_indices": np.append(given["kv_indices"], [-7, 2**30]).astype(np.int32)}


def cut(run_: Any) -> Any:
    """A kernel that reads of the list what is in use."""
    return lambda **given: run_(**{**given, "kv_indices": given["kv_indices"][: given["kv_indptr"][-1]]})


@pytest.fixture
def about(tmp_path: Path) -> Path:
    write_set(tmp_path, ABOUT, solution(ABOUT), solution(ABOUT, "kv-head"))
    return tmp_path / "definitions" / f"{ABOUT['name']}.json"


def test_calls_of_a_right_kernel_leave_nothing(about: Path, tmp_path: Path) -> None:
    wrapped = judged(cut(kernel()), about, every=3, folder=tmp_path / "live")
    given = call()
    for _ in range(3):
        out, lse = wrapped(**given)
    counts = wrapped.close()
    assert (counts.calls, counts.recorded, counts.right, counts.unjudged) == (3, 1, 1, 0)
    assert np.isfinite(out).all()
    assert lse.dtype == np.float32
    assert list((tmp_path / "live").iterdir()) == []


def test_a_wrong_call_stays_and_replays(
    about: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapped = judged(cut(kernel("kv-head")), about, every=100, folder=tmp_path / "live")
    with caplog.at_level(logging.ERROR):
        wrapped(**call())
        assert wrapped.close().wrong == 1
    assert "KV head" in caplog.text
    [folder] = (tmp_path / "live").iterdir()
    for name, code in (("kv-head", 1), ("right", 0)):
        assert run(["replay", str(folder), "--backend", str(tmp_path / "solutions" / f"{name}.json")]) == code
    assert run(["replay", str(folder), "--outputs", str(folder / "outputs.npz")]) == 1
    np.savez(tmp_path / "other.npz", output=np.zeros(3))
    capsys.readouterr()
    assert run(["replay", str(folder), "--outputs", str(tmp_path / "other.npz")]) == 4
    assert "must be an .npz with out" in capsys.readouterr().err


def test_outputs_that_are_passed_are_read_and_torch_is_taken(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    about = definition(latent=True)
    write_set(tmp_path, about)
    attend = kernel(latent=True)

    def passing(*given: Any) -> None:
        result = attend(*given[:-2])
        given[-2][:], given[-1][:] = result

    wrapped = judged(passing, tmp_path / "definitions" / f"{about['name']}.json", folder=tmp_path / "live")
    given = {name: torch.tensor(one) for name, one in call(latent=True).items()}
    given["kv_indices"] = given["kv_indices"][: int(given["kv_indptr"][-1])]
    given["sm_scale"] = float(given["sm_scale"])
    rows = given["q_nope"].shape
    wrapped(*given.values(), torch.zeros(rows), torch.zeros(rows[:2]))
    counts = wrapped.close()
    assert (counts.right, counts.unjudged, counts.wrong) == (1, 0, 0)


def test_a_call_that_cannot_be_judged_is_served_all_the_same(
    about: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrapped = judged(lambda **given: (given["q"], None), about, every=1, folder=tmp_path / "live")
    given = call()
    with caplog.at_level(logging.WARNING):
        out, _ = wrapped(**{**given, "kv_last_page_len": given["kv_last_page_len"][:1]})
    assert out is given["q"]
    assert wrapped.close().unjudged == 1
    assert "is not judged" in caplog.text


@pytest.mark.parametrize(("changed", "said"), [({"every": 0}, "every = 0"), ({"folder": "f/x"}, "folder = ")])
def test_what_cannot_be_wrapped_is_refused(
    about: Path, tmp_path: Path, changed: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f").write_text(json.dumps({}))
    with pytest.raises(PabenchError, match=said):
        judged(kernel(), about, **{"folder": "live", **changed})


def test_live_calls_with_lists_of_slots_are_judged(tmp_path: Path) -> None:
    kind = KINDS["lists"]
    file = tmp_path / "lists.json"
    file.write_text(json.dumps(kind.definition))
    attention = paged_attention(definition_of(kind.definition, "d"))
    case = own_workloads(attention)[1].case
    assert isinstance(case, Case)
    given = attention.arguments(build_tensors(case))
    for text, counted in ((kind.right, "right"), (kind.right.replace(*kind.wrong["cut"]), "wrong")):
        module = ModuleType("kernel")
        exec(text, vars(module))
        run_ = judged(module.run, file, every=1, folder=tmp_path / counted)
        run_(**given)
        assert getattr(run_.close(), counted) == 1, run_.counts
