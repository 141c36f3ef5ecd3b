# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from pabench.judge import threads
from pabench.judge.reference import truth
from pabench.judge.threads import one_blas_thread
from pabench.problem import Batch, Case, NumericsProfile, Problem, build_tensors

SWITCH = threads._switch()


@pytest.mark.skipif(SWITCH is None, reason="numpy's BLAS has no switch that is known")
def test_threads_of_products_are_one_and_come_back() -> None:
    assert SWITCH is not None
    read, write = SWITCH
    before = read()
    try:
        write(2)
        with one_blas_thread():
            assert read() == 1
        assert read() == 2
        with pytest.raises(ZeroDivisionError), one_blas_thread():
            raise ZeroDivisionError
        assert read() == 2
    finally:
        write(before)


def test_threads_switch_is_found_in_the_wheels_of_numpy() -> None:
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    assert SWITCH is not None or "openblas" not in blas


def test_threads_of_an_unknown_library_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "SWITCHES", (("no_such_get", "no_such_set"),))
    monkeypatch.setattr(threads, "_switch", threads._switch.__wrapped__)
    problem = Problem(num_qo_heads=1, num_kv_heads=1, head_dim=8, page_size=4)
    tensors = build_tensors(Case(problem=problem, batch=Batch(kv_lens=(5,))))
    assert np.isfinite(truth(tensors, NumericsProfile()).out).all()
