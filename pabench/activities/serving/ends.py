# SPDX-License-Identifier: Apache-2.0
"""The steps in which requests make their last token, and in which a scheduler sees that."""

from __future__ import annotations


class Ends:
    """Requests by the step that makes their last token.

    Args:
        late: the next step is scheduled by then, so that it is seen one step later.

    Attributes:
        unseen: requests that have all their tokens, and run all the same.
    """

    def __init__(self, *, late: bool) -> None:
        self._late = late
        self._requests: dict[int, list[int]] = {}
        self.unseen: list[int] = []

    def add(self, step: int, request: int) -> None:
        """Let a request end with a step that is not over."""
        self._requests.setdefault(step, []).append(request)

    def remove(self, step: int, request: int) -> None:
        """Forget what ``add`` was told."""
        self._requests[step].remove(request)

    def come(self, step: int) -> tuple[list[int], list[int]]:
        """Return the requests that end with ``step``, and those that are seen to have ended."""
        made = self._requests.pop(step, [])
        seen, self.unseen = (self.unseen, made) if self._late else (made, [])
        return made, seen
