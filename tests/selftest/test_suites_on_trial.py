# SPDX-License-Identifier: Apache-2.0
"""Suites on trial: the right kernel passes everywhere, and faults fall where their inputs can show them."""

import json
from inspect import signature
from itertools import islice
from pathlib import Path

import pytest

from pabench.cli.main import run
from pabench.device.registry import open_device
from pabench.judge.verdict import judge
from pabench.selftest.on_trial.faults import FAULTS, LastKey, PageId16Bits, Scale1Percent
from pabench.selftest.on_trial.kernel import Kernel
from pabench.selftest.on_trial.peers import SUITES
from pabench.selftest.on_trial.trial import Call, accepts, killed_by
from pabench.trial.check import check

DEFAULT_PROFILE = signature(check).parameters["profile"].default


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_passes_the_right_kernel_and_not_one_that_loses_a_page(name: str) -> None:
    suite = SUITES[name]
    lost = next(fault for fault in FAULTS if fault.__name__ == "HeadModulo")
    for tensors in islice(suite.cases(), 1 if name == "flashmla" else 2):
        call = Call(tensors, *Kernel().attend(tensors))
        if max(tensors.kv_lens) <= 2048:
            verdict = judge(tensors, *_given(Kernel(), tensors), Kernel.profile)
            assert verdict.passed, verdict.text
        assert accepts(suite, Kernel, call)
        if tensors.case.problem.num_kv_heads > 1:
            assert not accepts(suite, lost, call)


def _given(kernel: Kernel, tensors: object) -> tuple[object, object]:
    plan = kernel.plan(tensors)  # type: ignore[arg-type]
    kernel.run(plan)
    found = kernel.fetch(plan)
    return found.out, found.lse


def test_what_no_tolerance_sees_ours_kills() -> None:
    suite = SUITES["vllm"]
    for tensors in islice(suite.cases(), 3):
        call = Call(tensors, *Kernel().attend(tensors))
        assert not accepts(suite, LastKey, call)
        assert accepts(suite, PageId16Bits, call)
    device = open_device("emulated", must_run=False)
    assert killed_by(Scale1Percent, device) == "decode[needle]"
    assert killed_by(PageId16Bits, device) is not None


@pytest.mark.nightly
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_cases_of_check_are_enough_for_each_fault(fault: type[Kernel]) -> None:
    device = open_device("emulated", must_run=False)
    assert killed_by(fault, device, profile=DEFAULT_PROFILE) is not None


def test_faults_are_one_each_and_have_words() -> None:
    assert len({fault.__name__ for fault in FAULTS}) == len(FAULTS) == 26
    assert all(fault.__doc__ for fault in FAULTS)


def test_a_suite_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["selftest", "--suite", "flashmlaa"]) == 4
    assert "did you mean 'flashmla'" in capsys.readouterr().err


@pytest.mark.nightly
@pytest.mark.parametrize("name", SUITES)
def test_every_fault_falls_to_ours(name: str, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    words = [
        "selftest",
        "--suite",
        name,
        "--deadline",
        "5m",
        "--out",
        str(tmp_path / "run"),
        "--json",
        str(file),
    ]
    assert run(words) == 0
    found = json.loads(file.read_text())
    assert found["killed"]["pabench"] == found["faults"] == len(FAULTS)
    assert 0 < found["killed"][name] < len(FAULTS)
