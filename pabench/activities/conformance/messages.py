"""Cases on their way between supervisor and worker."""

from __future__ import annotations

from pabench.checks.case_files import READERS, AnyCase, kind_of
from pabench.run.channel import Message

ENTRY = "pabench.activities.conformance.work:work"
"""What a worker of the suite runs; named here and not imported, so that a supervisor stays light."""


def case_message(case: AnyCase) -> Message:
    """Return the message that announces ``case``; ``case_of`` reads it back."""
    return {"event": "case", "kind": kind_of(case), "case": case.to_dict()}


def case_of(message: Message) -> AnyCase:
    """Return the case of a message; raises ``InvalidCase``."""
    return READERS[message["kind"]](message["case"])
