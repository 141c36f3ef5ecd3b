"""The verdict of a decode through an allocator's tables, as the suite keeps it."""

from __future__ import annotations

from pabench.allocators.trial import Trial
from pabench.conformance.outcome import PASSED, Outcome, failed
from pabench.device.base import Device
from pabench.table_decode import decode_through_tables


def judge_tables(trial: Trial, device: Device) -> Outcome:
    """Decode every live sequence through the tables and compare with the oracle."""
    decoded = decode_through_tables(trial, device)
    if decoded.wrong is not None:
        return failed(decoded.wrong, max_ratio=decoded.max_ratio)
    return Outcome(passed=True, text=PASSED.text, max_ratio=decoded.max_ratio)
