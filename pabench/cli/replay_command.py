# SPDX-License-Identifier: Apache-2.0
"""``pabench replay``: judge a saved failing case again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pabench.cli.stamp import check_json, json_option, write_json
from pabench.console import say
from pabench.errors import EXIT_FAILURE, EXIT_OK, UsageError
from pabench.run.deadlines import deadline_help
from pabench.run.options import deadline_of

if TYPE_CHECKING:
    from pabench.activities.conformance.replay import Replayed


@click.command(name="replay")
@click.argument("case_dir", type=click.Path(path_type=Path))
@click.option(
    "--backend", "subject", metavar="NAME", help="Backend or allocator to run instead of the one that failed."
)
@click.option(
    "--outputs",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Judge these outputs instead of calling a backend: an .npz with out and, if there is one, lse.",
)
@click.option("--device", default=None, metavar="NAME", help="Device to use instead of the one in the case.")
@click.option(
    "--kernels",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of kernel sources to use instead of pabench's.",
)
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Captured activations (.npz) that the case needs.",
)
@click.option("--checked", is_flag=True, help="Check every memory access, on the emulated device.")
@click.option("--deadline", metavar="SECONDS", help=deadline_help("call"))
@json_option("the verdict")
@click.option("--in-process", is_flag=True, help="Run without worker processes, for debuggers.")
def command(
    case_dir: Path,
    subject: str | None,
    outputs: Path | None,
    device: str | None,
    kernels: Path | None,
    inputs: Path | None,
    checked: bool,
    deadline: str | None,
    json_file: Path | None,
    in_process: bool,
) -> int:
    """Run the failing case saved in CASE_DIR again; exit 0 when it passes now, 1 when it still fails.

    \b
    Examples:
      pabench replay runs/conformance-20260102-030405/failures/0123456789abcdef-decode-rawkernel
      pabench replay CASE_DIR --backend torch-sdpa
    """
    if deadline is not None and in_process:
        raise UsageError("--deadline needs a process of its own, must not be given with --in-process")
    from pabench.activities.conformance.replay import ReplayRequest, judge_outputs, replay
    from pabench.workloads.captured import inputs_in_use

    check_json(json_file)
    if outputs is not None:
        if subject or device or kernels or checked or deadline is not None:
            raise UsageError("--outputs calls no backend: it stands alone")
        return _told(judge_outputs(case_dir, outputs), json_file)
    request = ReplayRequest(
        folder=str(case_dir.absolute()),
        subject=subject,
        device=device,
        kernels=str(kernels) if kernels else None,
        checked=checked,
    )
    deadline_s = None if deadline is None else deadline_of(deadline)
    with inputs_in_use(inputs):
        return _told(replay(request, deadline_s=deadline_s, in_process=in_process), json_file)


def _told(replayed: Replayed, json_file: Path | None) -> int:
    from pabench.checks.faults import verdict_lines

    state = "PASSED" if replayed.passed else "FAILED"
    where = f" on {replayed.device}" if replayed.device else ""
    head, *rest = verdict_lines(replayed.text)
    say(f"{state} {replayed.subject} {replayed.check}{where}: {head}")
    for line in rest:
        say(f"  {line}")
    if replayed.traceback:
        say(replayed.traceback.rstrip())
    write_json(json_file, "replay", asdict(replayed))
    return EXIT_OK if replayed.passed else EXIT_FAILURE
