# SPDX-License-Identifier: Apache-2.0
"""One seed, one list of cases, whatever else the process has imported.

Hypothesis mixes constants that it reads from the source of local modules into what it draws.  Local is what
lies outside ``site-packages``, so a checkout and an installed copy, or two test files run in another order,
would meet other cases with the same ``--seed``.  The suite's cases come from the suite alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis
from hypothesis.internal.conjecture import providers

from pabench.errors import EnvironmentRefused

INNER = ("_get_local_constants", "Constants", "CONSTANTS_CACHE")
"""Names within Hypothesis that are touched, here and nowhere else: it has no public setting for this."""


def require_reproducible() -> None:
    """Look whether a seed names its cases with the Hypothesis that is installed.

    Raises:
        EnvironmentRefused: it keeps the constants elsewhere.
    """
    for name in INNER:
        if not hasattr(providers, name):
            text = f"Hypothesis {hypothesis.__version__} has no {name}: a seed would not name its cases"
            raise EnvironmentRefused(text, hint="install the release that constraints.txt names")


@contextmanager
def no_foreign_constants() -> Iterator[None]:
    """Keep constants of imported modules out of what Hypothesis draws inside.

    Raises:
        EnvironmentRefused: see ``require_reproducible``.
    """
    require_reproducible()
    inner: Any = providers
    collect, nothing = inner._get_local_constants, inner.Constants()
    inner._get_local_constants = lambda: nothing
    inner.CONSTANTS_CACHE.cache.clear()  # it holds what is permitted with the modules' constants among them
    try:
        yield
    finally:
        inner._get_local_constants = collect
        inner.CONSTANTS_CACHE.cache.clear()
