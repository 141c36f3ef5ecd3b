# SPDX-License-Identifier: Apache-2.0
"""A bench of a stress run whose allocators misbehave: ``stack`` hangs, ``ticket`` ends its process."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from pabench.activities.stress import scenarios
from pabench.activities.stress.bench import StressBench
from pabench.activities.stress.cell import StressCell
from pabench.run.plug import Env
from pabench.subjects.allocators.table import ALLOCATORS


def misbehaving(setup: Mapping[str, Any], env: Env) -> StressBench:
    """Return the shipped bench with a scenario that does not run to its end."""
    scenarios.RUN["pages"] = misbehave
    return StressBench(setup, env)


def misbehave(cell: StressCell, make: scenarios.Make, alive: object) -> scenarios.Figures:
    """Hang from 16 pages on, or end, by the name of the allocator."""
    assert cell.allocator in ALLOCATORS
    if cell.allocator == "stack" and cell.size >= 16:
        time.sleep(3600)
    if cell.allocator == "ticket":
        os._exit(3)
    return {"requests": cell.size, "served": cell.size}
