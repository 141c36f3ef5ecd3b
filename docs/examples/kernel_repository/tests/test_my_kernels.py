# SPDX-License-Identifier: Apache-2.0
"""The repository's own tests; with ``--pabench-backend`` the whole suite runs beside them."""

import pytest
from hypothesis import HealthCheck, given, settings

from pabench.strategies import cases


@pytest.mark.pabench(backend="my_kernels.py:decode")
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases(families=["needle"], poisons=["nan"], dtypes=["float32"], kv_layouts=["NHD"]))
def test_finds_the_needle_beside_poison(pabench_judge, case):
    """One key carries the weight, and every slot that may not be read holds NaN."""
    pabench_judge(case)


@pytest.mark.pabench(backend="my_kernels.py:decode")
def test_says_what_it_can(pabench_backend):
    """A plain function declares decode and nothing else."""
    assert pabench_backend.capabilities.operations == {"decode"}
