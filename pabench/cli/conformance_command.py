# SPDX-License-Identifier: Apache-2.0
"""``pabench conformance``: judge backends and allocators with the generated suite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from pabench.errors import UnknownName, UsageError
from pabench.run.deadlines import poll_seconds
from pabench.run.options import activity_options, options_of

if TYPE_CHECKING:
    from pabench.run.record import Record

DEFAULT_BACKEND = "rawkernel"
DEFAULT_ALLOCATORS = ("scan", "ticket", "stack", "host")
PROFILE_NAMES = ("trial", "quick", "default", "deep")


@click.command(name="conformance")
@click.option(
    "--backend", "backends", multiple=True, metavar="NAME", help="Backend to judge; may be repeated."
)
@click.option(
    "--allocator",
    "allocators",
    multiple=True,
    metavar="NAME",
    help="Page allocator to judge; may be repeated.  [default: scan, ticket, stack, host with rawkernel]",
)
@click.option(
    "--definitions",
    metavar="DIR",
    help="FlashInfer Trace set to judge: all of its solutions.",
)
@click.option("--workloads", metavar="FILE", help="Workloads for these solutions.  [default: pabench's own]")
@click.option(
    "--profile",
    default="default",
    metavar="NAME",
    help="Cases per check: trial, quick, default or deep.",
    show_default=True,
)
@click.option(
    "--spec", metavar="VERSION", help="Run the checks of this version of the specification, such as 1.0."
)
@click.option(
    "-k",
    "select",
    metavar="IDS",
    multiple=True,
    callback=lambda context, option, given: ", ".join(given) if given else None,
    help="Checks to run: ids or globs, separated by commas; and, or, not are understood; may be repeated.",
)
@click.option(
    "--secret-seed",
    is_flag=True,
    help="Draw cases from the secret in $PABENCH_SECRET_SEED; no file of the run shows it.",
)
@click.option("--artifacts", metavar="DIR", hidden=True, help="Older name of --out.")
@activity_options()
def command(
    *,
    backends: tuple[str, ...],
    allocators: tuple[str, ...],
    definitions: str | None,
    workloads: str | None,
    profile: str,
    spec: str | None,
    select: str | None,
    secret_seed: bool,
    artifacts: str | None,
    **given: Any,
) -> int:
    """Check kernels and page allocators against a dense float64 reference, on generated cases.

    \b
    Examples:
      pabench conformance --profile quick
      pabench conformance --backend torch-sdpa --json result.json --junit result.xml
      pabench conformance --backend my_kernel.py:decode -k "decode, reject"
      pabench conformance --definitions trace_set --profile quick

    What is tested runs in its own process: a crash or a hang is a verdict, and the run continues.
    """
    given["out"] = artifacts if given["out"] is None else given["out"]
    options = options_of("conformance", given)
    if profile not in PROFILE_NAMES:
        raise UnknownName("profile", profile, PROFILE_NAMES)
    from pabench.activities.conformance.plug import Conformance
    from pabench.activities.conformance.request import ConformanceRequest
    from pabench.activities.conformance.secret import shown_seed, with_secret
    from pabench.cli.conformance_summary import json_fields, properties, summary_lines
    from pabench.cli.conformance_verdict import verdict_of
    from pabench.device.registry import DeviceRequest
    from pabench.run.command import Words, run_activity
    from pabench.subjects.reference import ALLOCATOR, BACKEND
    from pabench.subjects.registry import SOLUTION, resolve_all
    from pabench.workloads.captured import inputs_in_use

    if definitions is not None:
        backends = (*backends, *_solutions(definitions))
    backends, allocators = _subjects(backends, allocators)
    if workloads is not None and not any(name.endswith(SOLUTION) for name in backends):
        raise UsageError("--workloads needs a solution", hint="--definitions DIR or --backend solution.json")
    resolve_all(BACKEND, backends)
    resolve_all(ALLOCATOR, allocators)
    request = ConformanceRequest(
        backends=backends,
        allocators=allocators,
        profile=profile,
        seed=options.seed,
        select=select,
        workloads=workloads,
        spec=spec,
    )
    if secret_seed:
        request = with_secret(request, seed_given=options.seed != 0)
    device = DeviceRequest(
        name=options.device,
        kernels=None if options.kernels is None else str(options.kernels),
        checked=options.checked,
        poll_seconds=poll_seconds(options.deadline_s),
    )
    device.check()
    with inputs_in_use(options.inputs) as capture:
        plug = Conformance(
            request,
            device=device,
            deadline_s=None if options.in_process else options.deadline_s,
            config={
                "kernels": device.kernels,
                "inputs": capture.id,
                "inputs_file": None if options.inputs is None else str(options.inputs),
                "checked": options.checked,
            },
        )

        def fields(records: Sequence[Record]) -> Mapping[str, Any]:
            return {
                "seed": shown_seed(request),
                "profile": request.profile,
                "verdict": verdict_of(records, profile=request.profile),
                **json_fields(records),
            }

        def summary(records: Sequence[Record]) -> Iterator[str]:
            return summary_lines(records, plug.subjects, whole=select is None)

        words = Words(
            who=", ".join((*backends, *allocators)), summary=summary, json=fields, properties=properties
        )
        return run_activity(plug, options, words)


def _solutions(definitions: str) -> tuple[str, ...]:
    """The solutions of a trace set, all of whose definitions can be read."""
    from pathlib import Path

    from pabench.exchange.definition import DEFINITIONS, SOLUTIONS, definitions_in
    from pabench.exchange.solution import solutions_in

    root = Path(definitions)
    if not list(definitions_in(root)):
        raise UsageError(f"--definitions {definitions}: no {DEFINITIONS}/*.json in it")
    if not (found := solutions_in(root)):
        raise UsageError(f"--definitions {definitions}: no {SOLUTIONS}/*.json in it")
    return tuple(map(str, found))


def _subjects(
    backends: tuple[str, ...], allocators: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The default judges our own kernels and allocators; a named subject is judged alone."""
    if not backends and not allocators:
        backends = (DEFAULT_BACKEND,)
    if DEFAULT_BACKEND in backends and not allocators:
        allocators = DEFAULT_ALLOCATORS
    return tuple(dict.fromkeys(backends)), tuple(dict.fromkeys(allocators))
