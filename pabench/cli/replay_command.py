"""``pabench replay``: judge a saved failing case again."""

from __future__ import annotations

from pathlib import Path

import click

from pabench.cli.isolation_options import deadline_seconds, isolation_options, poll_seconds
from pabench.errors import EXIT_FAILURE, EXIT_OK


@click.command(name="replay")
@click.argument("case_dir", type=click.Path(path_type=Path))
@click.option(
    "--backend", "subject", metavar="NAME", help="Another backend or allocator than the case's own."
)
@click.option("--device", default=None, metavar="NAME", help="Another device than the case's own.")
@click.option(
    "--kernels", type=click.Path(path_type=Path), metavar="DIR", help="A copy of kernels_cuda to use."
)
@click.option(
    "--inputs", type=click.Path(path_type=Path), metavar="FILE", help="Captured activations of the case."
)
@click.option("--checked", is_flag=True, help="Look at every access of the kernels, on the emulated device.")
@isolation_options
def command(
    case_dir: Path,
    subject: str | None,
    device: str | None,
    kernels: Path | None,
    inputs: Path | None,
    checked: bool,
    deadline: float | None,
    in_process: bool,
) -> int:
    """Run the failing case saved in CASE_DIR again; exit 0 when it passes now, 1 when it still fails.

    \b
    Examples:
      pabench replay runs/conformance-20260102-030405/failures/0123456789abcdef-decode-rawkernel
      pabench replay CASE_DIR --backend torch-sdpa
    """
    deadline_s = deadline_seconds(deadline, in_process=in_process)
    from pabench.activities.conformance.replay import ReplayRequest, replay_here, replay_isolated
    from pabench.workloads.captured import inputs_in_use

    request = ReplayRequest(
        folder=str(case_dir.absolute()),
        subject=subject,
        device=device,
        kernels=str(kernels) if kernels else None,
        checked=checked,
        poll_seconds=poll_seconds(deadline_s),
    )
    with inputs_in_use(inputs):
        replayed = replay_here(request) if in_process else replay_isolated(request, deadline_s=deadline_s)
    state = "PASSED" if replayed.passed else "FAILED"
    click.echo(f"{state} {replayed.subject} {replayed.check} on {replayed.device}: {replayed.text}")
    return EXIT_OK if replayed.passed else EXIT_FAILURE
