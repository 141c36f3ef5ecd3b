"""One seed, one list of cases, whatever else the process has imported.

Hypothesis mixes constants that it reads from the source of local modules into what it draws.  Local is what
lies outside ``site-packages``, so a checkout and an installed copy, or two test files run in another order,
would meet other cases with the same ``--seed``.  The suite's cases come from the suite alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis.internal.conjecture import providers


@contextmanager
def no_foreign_constants() -> Iterator[None]:
    """Keep constants of imported modules out of what Hypothesis draws inside.

    Hypothesis has no public setting for it.  In a release that keeps them elsewhere this changes nothing:
    cases are as right as before, and a seed names them only together with what is imported.
    """
    names = ("_get_local_constants", "Constants", "CONSTANTS_CACHE")
    if not all(hasattr(providers, name) for name in names):
        yield
        return
    inner: Any = providers
    collect, nothing = inner._get_local_constants, inner.Constants()
    inner._get_local_constants = lambda: nothing
    inner.CONSTANTS_CACHE.cache.clear()  # it holds what is permitted with the modules' constants among them
    try:
        yield
    finally:
        inner._get_local_constants = collect
        inner.CONSTANTS_CACHE.cache.clear()
