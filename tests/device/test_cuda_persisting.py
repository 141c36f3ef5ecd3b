# SPDX-License-Identifier: Apache-2.0
"""The calls about persisting lines of the L2 cache, on a driver that is a model."""

from __future__ import annotations

from typing import Any

from pabench.device.cuda_persisting import PersistingLines


class Driver:
    """Implements the three calls; an ``error`` is what all of them return."""

    def __init__(self, *, error: int = 0) -> None:
        self.error, self.aside, self.lines, self.calls = error, 1 << 20, 77, list[str]()

    def cuCtxSetLimit(self, limit: Any, value: Any) -> int:  # noqa: N802
        self.calls.append("set")
        if not self.error:
            assert limit.value == 6
            self.aside = value.value
        return self.error

    def cuCtxGetLimit(self, value: Any, limit: Any) -> int:  # noqa: N802
        assert limit.value == 6
        value._obj.value = self.aside
        return self.error

    def cuCtxResetPersistingL2Cache(self) -> int:  # noqa: N802
        self.calls.append("reset")
        if not self.error:
            self.lines = 0
        return self.error


def test_persisting_lines_lose_their_room_and_then_go() -> None:
    driver = Driver()
    lines = PersistingLines(driver)
    assert lines.room() == 1 << 20
    assert lines.reset()
    assert (driver.aside, driver.lines, driver.calls) == (0, 0, ["set", "reset"])
    assert lines.room() == 0


def test_persisting_lines_that_a_gpu_or_driver_has_not_are_none() -> None:
    refusing = PersistingLines(Driver(error=215))  # CUDA_ERROR_UNSUPPORTED_LIMIT
    assert (refusing.reset(), refusing.room()) == (False, 0)
    old = PersistingLines(object())
    assert (old.reset(), old.room()) == (False, 0)
