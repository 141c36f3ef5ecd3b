# SPDX-License-Identifier: Apache-2.0
"""Makes a case small that ends its subject's process."""

from __future__ import annotations

import time
from collections.abc import Callable

from pabench.checks.case_files import AnyCase
from pabench.checks.smaller import smaller_cases
from pabench.run.ending import Ending

MAX_CANDIDATES = 200
SEARCH_SECONDS = 60.0
"""How long a smaller case that crashes is looked for."""
SEARCH_DEADLINES = 1.0
"""How long one that hangs is looked for, in deadlines."""
BRIEF_SECONDS = 0.5
"""What a candidate for a hang is given at least: a worker has to start."""
ALONE = "; the case alone does not do it again"


def smallest(
    case: AnyCase, ending: Ending, judge: Callable[[AnyCase, float], Ending | None], deadline_s: float
) -> tuple[AnyCase, Ending]:
    """Return the smallest case found that ends a worker as ``ending`` says ``case`` did, and how that ends.

    A hang is tried with a part of the deadline; what is returned has been seen to take all of it.  The
    search is bounded, so that the result is small and not always the smallest there is.
    """
    brief_s = max(BRIEF_SECONDS, deadline_s / 20) if ending.hung else deadline_s
    stop = time.monotonic() + (SEARCH_DEADLINES * deadline_s if ending.hung else SEARCH_SECONDS)
    again = judge(case, brief_s)
    if again is None or again.hung != ending.hung:
        return case, Ending(text=ending.text + ALONE, hung=ending.hung)
    best, found, tried = case, ending, {case.id}
    progress = True
    while progress:
        progress = False
        for candidate in smaller_cases(best):
            if candidate.id in tried:
                continue
            if time.monotonic() > stop or len(tried) > MAX_CANDIDATES:
                break
            tried.add(candidate.id)
            end = judge(candidate, brief_s)
            if end is not None and end.hung == ending.hung:
                best, found, progress = candidate, end, True
                break
    if ending.hung and best is not case:
        confirmed = judge(best, deadline_s)
        return (best, confirmed) if confirmed is not None and confirmed.hung else (case, ending)
    return best, found
