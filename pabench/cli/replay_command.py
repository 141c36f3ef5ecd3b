"""``pabench replay``: judge a saved failing case again."""

from __future__ import annotations

from pathlib import Path

import click

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
def command(case_dir: Path, subject: str | None, device: str | None, kernels: Path | None) -> int:
    """Run the failing case saved in CASE_DIR again; exit 0 when it passes now, 1 when it still fails.

    \b
    Examples:
      pabench replay runs/conformance-20260102-030405/failures/0123456789abcdef-decode-rawkernel
      pabench replay CASE_DIR --backend torch-sdpa
    """
    from pabench.conformance.failures import load_case, rerun
    from pabench.device.registry import open_device

    saved = load_case(case_dir)
    target = open_device(device or saved.device, kernels=kernels)
    outcome = rerun(saved, target, subject=subject)
    state = "PASSED" if outcome.passed else "FAILED"
    click.echo(f"{state} {subject or saved.subject} {saved.check} on {target.name}: {outcome.text}")
    return EXIT_OK if outcome.passed else EXIT_FAILURE
