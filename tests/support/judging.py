# SPDX-License-Identifier: Apache-2.0
"""Judges one case as whoever runs checks does."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from pabench.checks.outcome import Outcome, raised
from pabench.errors import Unsupported

PLACE = re.compile(r" \(\w+\.py:\d+ in [\w<>]+\)")
"""Where something was raised: the same here and in another process, unless the line is one of pabench's."""


def tried(judge: Callable[[], Outcome]) -> Outcome | str:
    """The outcome as whoever judges a case makes it, or why the case was declined."""
    try:
        return judge()
    except Unsupported as declined:
        return f"declined: {declined}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return raised(error)


def bare(outcome: Outcome) -> Outcome:
    """The outcome without place and traceback, of which only the last line is kept."""
    last = None if outcome.traceback is None else outcome.traceback.splitlines()[-1]
    return replace(outcome, text=PLACE.sub("", outcome.text), traceback=last)


def said(outcome: Outcome | str) -> str:
    return outcome if isinstance(outcome, str) else outcome.text
