# SPDX-License-Identifier: Apache-2.0
"""Every error a user can meet, each with the exit code of the command line.

Exit codes: 0 ok, 1 failure or regression, 2 interrupted, 3 internal, 4 usage, 5 nothing ran,
6 inconclusive, 7 environment refused.  The message of an error is one line that names the value and the
rule it broke; ``hint`` adds what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pabench.text import VALUE_LIMIT, shown

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_INTERRUPTED = 2
EXIT_INTERNAL = 3
EXIT_USAGE = 4
EXIT_NOTHING_RAN = 5
EXIT_INCONCLUSIVE = 6
EXIT_ENVIRONMENT = 7


class PabenchError(Exception):
    """Base of all errors that pabench raises on purpose."""

    exit_code = EXIT_INTERNAL

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(PabenchError):
    """The request itself is wrong: an option, a name, a file that cannot be read."""

    exit_code = EXIT_USAGE


class InvalidCase(UsageError):
    """A field of a problem breaks a rule.

    ``InvalidCase("page_size", 0, "must be at least 1")`` reads ``page_size = 0: must be at least 1``.
    """

    def __init__(self, field: str, value: object, rule: str, *, hint: str | None = None) -> None:
        super().__init__(f"{field} = {shown(value)}: {rule}", hint=hint)
        self.field = field
        self.value = value
        self.rule = rule


class UnknownName(UsageError):
    """A name that is not in its list; the nearest known name is offered."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        near = difflib.get_close_matches(name[:VALUE_LIMIT], names, n=1, cutoff=0.4)
        guess = f"; did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {kind} {shown(name)}{guess} (known: {', '.join(names) or 'none'})")


class Unsupported(PabenchError):
    """What is asked is well formed, but this backend or device declares that it cannot do it."""

    exit_code = EXIT_NOTHING_RAN


class EnvironmentRefused(PabenchError):
    """This machine lacks something the request needs: a compiler, a GPU, a writable folder."""

    exit_code = EXIT_ENVIRONMENT


class CompileError(PabenchError):
    """A kernel source does not compile; the message carries the compiler's first error."""

    exit_code = EXIT_FAILURE


class LaunchError(PabenchError):
    """A launch breaks a limit of the device, or its arguments do not fit the kernel's signature."""

    exit_code = EXIT_FAILURE


class DeviceFault(PabenchError):
    """A kernel did something that a device cannot finish, such as a barrier not all threads reach."""

    exit_code = EXIT_FAILURE


class OutOfPages(PabenchError):
    """The pool has fewer pages to give than the request needs; the allocator's state is unchanged.

    Attributes:
        needed: pages (or ``unit``) that the request takes.
        available: how many it could have had.
    """

    exit_code = EXIT_FAILURE

    def __init__(self, needed: int, available: int, *, unit: str = "pages") -> None:
        super().__init__(f"{needed} {unit} needed, {available} available")
        self.needed = needed
        self.available = available


def reason(error: OSError) -> str:
    """Return the operating system's words for an error, without errno and path."""
    return (error.strerror or type(error).__name__).lower()
