# SPDX-License-Identifier: Apache-2.0
"""How long a case may take, where nobody says."""

from __future__ import annotations

from typing import Any

import pytest

from pabench.run.deadlines import deadline_help, deadline_on
from pabench.run.options import options_of


@pytest.mark.parametrize(
    ("device", "checked", "seconds"),
    [
        ("auto", False, 60),
        ("cuda", False, 60),
        ("emulated", False, 60),
        ("emulated", True, 300),
        ("ptx", False, 300),
        ("ptx:sm_90a:lockstep", False, 300),
    ],
)
def test_deadline_is_longer_where_a_case_takes_longer(device: str, checked: bool, seconds: float) -> None:
    given: dict[str, Any] = {"device": device, "checked": checked}
    assert deadline_on(device, checked=checked) == seconds
    assert options_of("conformance", dict(given)).deadline_s == seconds
    assert options_of("conformance", given | {"deadline": "7"}).deadline_s == 7
    assert options_of("stress", dict(given), deadline_s=20.0).deadline_s == seconds / 3


def test_deadline_help_names_both() -> None:
    assert deadline_help("case").endswith("[default: 60; 300 on ptx and with --checked]")
    assert deadline_help("case", 20.0, checked=False).endswith("[default: 20; 100 on ptx]")
