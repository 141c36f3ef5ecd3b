# SPDX-License-Identifier: Apache-2.0
"""``pabench stress``: page allocators under many requests, in full pools, over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from pabench.run.deadlines import poll_seconds
from pabench.run.options import activity_options, options_of
from pabench.text import one_line

DEFAULT_DEADLINE_S = 20.0
WITHOUT = ("kernels", "checked", "inputs")


@click.command(name="stress")
@click.option(
    "--allocator",
    "allocators",
    multiple=True,
    metavar="NAME",
    help="Page allocator, see `pabench list allocators`; may be repeated.  [default: host]",
)
@click.option(
    "--scenario",
    "scenarios",
    multiple=True,
    metavar="NAME",
    help="Scenario; may be repeated.  [default: all]",
)
@click.option(
    "--max-requests",
    default=2**20,
    metavar="N",
    show_default=True,
    help="Largest number of requests, at most 2^20.",
)
@click.option(
    "--pages", default=2**14, metavar="N", show_default=True, help="Pages in the pool of churn and fill."
)
@click.option("--page-size", default=16, metavar="N", show_default=True, help="Tokens per page.")
@click.option("--rounds", default=40, metavar="N", show_default=True, help="Rounds of churn and fill.")
@activity_options(deadline_s=DEFAULT_DEADLINE_S, without=WITHOUT)
def command(
    *,
    allocators: tuple[str, ...],
    scenarios: tuple[str, ...],
    max_requests: int,
    pages: int,
    page_size: int,
    rounds: int,
    **given: Any,
) -> int:
    """Stress page allocators: cost per call, and memory over time.

    Scenarios: requests and pages (sizes 1 to --max-requests), churn, oversubscription, fill.  Times are host
    times per call; on the emulated device they time the emulation.  A call longer than --deadline is recorded
    as a timeout.

    \b
    Examples:
      pabench stress --allocator host --max-requests 4096
      pabench stress --allocator buddy --allocator contiguous --scenario churn --scenario fill
    """
    from pabench.activities.stress.cell import SCENARIOS, stress_cells
    from pabench.activities.stress.plug import Stress
    from pabench.device.registry import DeviceRequest
    from pabench.errors import InvalidCase, UnknownName, UsageError
    from pabench.run.command import Words, run_activity
    from pabench.subjects.reference import ALLOCATOR
    from pabench.subjects.registry import resolve_all

    options = options_of("stress", given, deadline_s=DEFAULT_DEADLINE_S, without=WITHOUT)
    chosen = allocators or ("host",)
    resolve_all(ALLOCATOR, chosen)
    for name in scenarios:
        if name not in SCENARIOS:
            raise UnknownName("scenario", name, SCENARIOS)
    config: dict[str, Any] = {
        "scenarios": tuple(name for name in SCENARIOS if name in scenarios) or SCENARIOS,
        "max_requests": max_requests,
        "num_pages": pages,
        "page_size": page_size,
        "rounds": rounds,
        "seed": options.seed,
    }
    try:
        cells = list(stress_cells(chosen, **config))
    except InvalidCase as wrong:
        spelled = {"num_pages": "--pages"}.get(wrong.field, f"--{wrong.field.replace('_', '-')}")
        raise UsageError(f"{spelled} {wrong.value}: {wrong.rule}") from None
    device = DeviceRequest(name=options.device, poll_seconds=poll_seconds(options.deadline_s))
    device.check()
    plug = Stress(
        cells, device=device, deadline_s=options.deadline_s, config={"allocators": chosen, **config}
    )
    # times are taken: one worker, unless somebody asks for more
    return run_activity(plug, options, Words(who=", ".join(chosen), summary=_table), one_job=True)


def _table(records: Sequence[Any]) -> Iterator[str]:
    """What fits on a screen; the report and the journal have the rest."""
    from pabench.cli.text_table import screen_width, text_table
    from pabench.report.stress import figures_of

    rows = []
    several = len({record.subject.name for record in records}) > 1
    for record in records:
        shown = figures_of(record.flat())
        rows.append(
            # the first line says which allocator it is, unless there are several
            ({"allocator": record.subject.name} if several else {})
            | {
                "scenario": record.details["check"],
                "status": str(record.status),
                "first (host)": shown.first,
                "steady (host)": shown.steady,
                "memory (counted)": shown.memory,
            }
        )
    yield text_table(rows, width=screen_width()) if rows else "nothing ran"
    for record in records:
        if record.reason is not None:
            yield f"{record.label}: {record.status}: {one_line(record.reason)}"
