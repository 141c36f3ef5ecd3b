# SPDX-License-Identifier: Apache-2.0
"""Who hears of a case before it is judged, so that its crash can be told from outside."""

from __future__ import annotations

from collections.abc import Callable

from pabench.checks.case_files import AnyCase
from pabench.checks.outcome import Outcome, raised
from pabench.checks.remote.errors import SubjectEnded
from pabench.device.base import Device
from pabench.errors import EnvironmentRefused, Unsupported


class CaseObserver:
    """Lets everything pass: for a run within the process of the command itself.

    Attributes:
        isolated: the process is a worker's; an interrupt in it can only be the subject's own doing.
    """

    isolated = False

    def check(self, name: str, about: str) -> None:
        """Hear which check begins."""

    def case(self, case: AnyCase) -> None:
        """Hear which case is about to be judged."""

    def judge(self, case: AnyCase, run: Callable[[], Outcome]) -> Outcome:
        """Announce ``case`` and run its judgement; whatever the subject raises becomes the outcome.

        Raises:
            Unsupported: the subject declares that it cannot run the case.
            EnvironmentRefused: the machine gave out, which is no verdict on a subject.
            SubjectEnded: its process ended; whoever started it makes the case small and starts another.
            KeyboardInterrupt: the user's, which only reaches a process of the user's own.
        """
        self.case(case)
        try:
            return run()
        except (Unsupported, SubjectEnded, EnvironmentRefused):
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and not self.isolated:
                raise
            return raised(error)

    def judged(self, outcome: Outcome, device: Device) -> Outcome:
        """Hear an outcome; return it, or what is worse."""
        return outcome
