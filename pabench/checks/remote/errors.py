# SPDX-License-Identifier: Apache-2.0
"""What a subject's process can end a call with, other than an answer or an error of ours."""

from __future__ import annotations

from pabench.run.ending import Ending


class SubjectRaised(Exception):
    """The subject raised something that is no error of pabench.

    The message reads ``TypeName: message (file.py:12 in decode)``.

    Attributes:
        traceback: the whole of it, the last part when it is long.
    """

    def __init__(self, text: str, traceback: str = "") -> None:
        super().__init__(text)
        self.traceback = traceback


class SubjectEnded(BaseException):
    """The subject's process ended, or was ended, in the middle of a call.

    No ``Exception``: what a check expects a subject to raise, it does not expect to be this.

    Attributes:
        ending: how.
    """

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.text)
        self.ending = ending
