# SPDX-License-Identifier: Apache-2.0
"""What the command line was called with; apart from the options, which cost the help a fifth of its time."""

from __future__ import annotations

from contextvars import ContextVar

command_arguments: ContextVar[tuple[str, ...] | None] = ContextVar("command_arguments", default=None)
"""What the command line was called with, where that is not ``sys.argv``."""
