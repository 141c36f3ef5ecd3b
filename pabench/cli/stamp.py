"""What every JSON answer opens with, so that a reader knows which form it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pabench import __version__

SCHEMA = 1
"""Of the answers of single commands; runs and comparisons count their own."""


def stamped(kind: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``record`` behind schema, version of pabench and the command that says it."""
    return {"schema": SCHEMA, "pabench": __version__, "kind": kind, **record}
