# SPDX-License-Identifier: Apache-2.0
"""The ``pabench`` command: a table of commands, each imported only when it is called.

Every error leaves as one line on standard error and the exit code of ``pabench.errors``; a traceback is shown
only when ``PABENCH_TRACEBACK`` is set.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import NoReturn

import click

from pabench import __version__
from pabench.cli.numbers import strict_numbers
from pabench.console import lasting_output, say
from pabench.errors import (
    EXIT_ENVIRONMENT,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    PabenchError,
    UnknownName,
    reason,
)
from pabench.run.arguments import command_arguments
from pabench.run.signals import stop_signals
from pabench.text import one_line, shown_path

REFUSED = {
    **dict.fromkeys(
        (
            *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
            *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EAGAIN),
        ),
        EXIT_ENVIRONMENT,
    ),
    errno.ENAMETOOLONG: EXIT_USAGE,
    errno.ELOOP: EXIT_USAGE,
}
"""What a system refuses that no command foresaw, and the exit code it gives."""

COMMANDS = {
    "conformance": "Check kernels and page allocators against a dense reference, on generated cases.",
    "sweep": "Measure memory and speed over page sizes, lengths and batches.",
    "serving": "Simulate serving: memory, preemptions and latency by allocator and page size.",
    "model": "Run a language model through the kernels and check it against dense attention.",
    "stress": "Stress page allocators: many requests, full pools, fragmentation over time.",
    "memory": "Estimate memory waste, capacity and the best page size for a model.",
    "report": "Write the HTML report of one or more runs.",
    "compare": "Compare two runs: regressions and improvements.",
    "export": "Write a run as CSV, Parquet, JSON, JUnit, Markdown or Bencher metrics.",
    "weather": "Write a page of other projects' packages by version and clause.",
    "finding": "Print a finding in another project as a report for it.",
    "submit": "Pack a conformance run as a submission that anybody can verify.",
    "verify": "Check a submission package: hashes, waivers, profiles.",
    "scoreboard": "Write a page of submission packages side by side.",
    "kernels": "Compile kernels without a GPU: registers, spills, occupancy.",
    "gpu": "Check and measure pabench's kernels on this machine's NVIDIA GPU.",
    "replay": "Run a saved failing case again.",
    "list": "List backends, checks, devices, GPUs, models and more.",
    "doctor": "Show what is installed: compiler, GPUs, packages.",
    "selftest": "Self-test: verify that seeded bugs are detected.",
}


class LazyGroup(click.Group):
    """Imports ``pabench.cli.<command>`` when the command is called; ``--help`` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            raise UnknownName("command", cmd_name, COMMANDS)
        module = importlib.import_module(f"pabench.cli.{cmd_name}_command")
        return strict_numbers(module.command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="pabench")
def cli() -> None:
    """Conformance suite and benchmark for paged attention kernels and KV-cache page allocators.

    \b
    Examples:
      pabench conformance --profile quick
      pabench sweep --page-sizes 8,16,32

    \b
    Exit codes: 0 ok, 1 failure or regression, 2 interrupted, 3 internal error, 4 usage,
    5 nothing ran, 6 inconclusive, 7 environment refused.
    """


def run(arguments: list[str] | None = None, command: click.Command = cli) -> int:
    """Run a command line and return its exit code; a command returns its own code or None for 0."""
    arguments = sys.argv[1:] if arguments is None else arguments
    said = command_arguments.set(tuple(arguments))
    try:
        # a cancelled job may not have got beyond its imports
        with stop_signals():
            # no command at all asks for help and is no mistake
            words = arguments or (["--help"] if command is cli else [])
            name = "pabench" if command is cli else None
            code = command.main(args=words, prog_name=name, standalone_mode=False)
    except PabenchError as error:
        return _fail(str(error), error.exit_code, hint=error.hint)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        return _fail(error.format_message(), EXIT_USAGE, hint="pabench COMMAND --help shows the options")
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted", EXIT_INTERRUPTED)
    except Exception as error:
        if os.environ.get("PABENCH_TRACEBACK"):
            raise
        if isinstance(error, OSError) and error.errno in REFUSED:
            what = "" if error.filename is None else f" {shown_path(error.filename)}"
            return _fail(f"cannot use{what or ' this machine'}: {reason(error)}", REFUSED[error.errno])
        text = f"internal error: {type(error).__name__}: {error}"
        return _fail(text, EXIT_INTERNAL, hint="PABENCH_TRACEBACK=1 shows the traceback; please report it")
    finally:
        command_arguments.reset(said)
    return code if isinstance(code, int) else EXIT_OK


def main(command: click.Command = cli) -> NoReturn:
    """Entry point of the ``pabench`` script, and of an activity of one's own with its command."""
    with lasting_output() as output:
        code = run(command=command)
        # what is left in buffers is written before the verdict on the writing
        sys.stdout.flush()
        if output.failure is not None:
            said = f"cannot write to standard output: {reason(output.failure)}"
            code = _fail(said, code if code != EXIT_OK else EXIT_ENVIRONMENT)
    sys.exit(code)


def _fail(message: str, code: int, *, hint: str | None = None) -> int:
    said = one_line(message) + (f" ({one_line(hint)})" if hint else "")
    say(f"pabench: {said}", err=True)
    return code
