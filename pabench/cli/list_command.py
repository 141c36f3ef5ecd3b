# SPDX-License-Identifier: Apache-2.0
"""``pabench list``: the names that options take, with a line about each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import click

from pabench.cli.stamp import stamped
from pabench.cli.text_table import screen_width, text_table
from pabench.console import say
from pabench.errors import UnknownName

Rows = list[dict[str, Any]]

SKETCH_DRAWS = 2000
SKETCH_BINS = 18
SKETCH_UNICODE = "▁▂▃▄▅▆▇█"
SKETCH_ASCII = ".:-=+*%@"

ENTRY_POINT = "an entry point of an installed package"

IN_JSON = ("object", "source")
"""What programs ask for, and a table for people has no use for."""

ROWS: dict[str, Callable[[], Rows]] = {}


def _lists(what: str) -> Callable[[Callable[[], Rows]], Callable[[], Rows]]:
    def enter(rows: Callable[[], Rows]) -> Callable[[], Rows]:
        ROWS[what] = rows
        return rows

    return enter


@_lists("backends")
def _backends() -> Rows:
    from pabench.subjects.reference import BACKEND
    from pabench.subjects.registry import known, places

    rows: Rows = []
    for name, place in sorted(places(BACKEND).items()):
        subject = known(BACKEND).get(name)
        peer = subject.peers[0] if subject and subject.peers else None
        rows.append(
            {
                "name": name,
                "runs": "" if peer is None else f"{peer.title} {peer.version}",
                "needs_gpu": subject is not None and subject.needs_gpu,
                "object": place,
                "about": ENTRY_POINT if subject is None else subject.about,
            }
        )
    return rows


@_lists("allocators")
def _allocators() -> Rows:
    from pabench.subjects.allocators.capabilities import OPERATIONS
    from pabench.subjects.reference import ALLOCATOR
    from pabench.subjects.registry import declared, installed, known, places, resolve

    rows: Rows = []
    for name, place in places(ALLOCATOR).items():
        subject = known(ALLOCATOR).get(name)
        # other people's code is not run for a list
        foreign = subject is None or name in installed(ALLOCATOR)
        can = None if foreign else declared(resolve(ALLOCATOR, name)).capabilities
        rows.append(
            {
                "name": name,
                "order": can and can.order,
                "ids": can and can.determinism,
                "batch": can and can.batch_mode,
                "refusal": can and can.refusal,
                "progress": can and can.progress,
                "watermark": can and can.watermark,
                "reserved_pages": can and len(can.reserved_pages),
                "operations": [operation for operation in OPERATIONS if can and operation in can.operations],
                "object": place,
                "about": ENTRY_POINT if subject is None else subject.about,
            }
        )
    return rows


@_lists("checks")
def _checks() -> Rows:
    from pabench.checks.registry import ALLOCATOR_CHECKS, CHECKS

    rows: Rows = [{"name": c.id, "judges": c.operation, "about": c.about} for c in CHECKS.values()]
    return rows + [{"name": c.id, "judges": "allocator", "about": c.about} for c in ALLOCATOR_CHECKS.values()]


@_lists("questions")
def _questions() -> Rows:
    from pabench.checks.suite import QUESTIONS

    return [
        {"name": q.id, "asks": q.subject_kind, "clauses": list(q.clauses), "about": q.sentence}
        for q in QUESTIONS
    ]


@_lists("devices")
def _devices() -> Rows:
    from pabench.device.compiler import find_compiler
    from pabench.device.cuda import why_no_cuda
    from pabench.device.nvrtc import INSTALL, nvrtc_installed
    from pabench.errors import EnvironmentRefused

    try:
        compiler, refusal = find_compiler().version, None
    except EnvironmentRefused as error:
        compiler, refusal = "", str(error)
    no_cuda = why_no_cuda()
    return [
        {"name": "cuda", "usable": no_cuda is None, "about": no_cuda or "CuPy and NVRTC on a GPU"},
        {"name": "emulated", "usable": refusal is None, "about": refusal or f"on the host, by {compiler}"},
        {
            "name": "ptx:sm_80",
            "usable": refusal is None and nvrtc_installed(),
            "about": refusal
            or ("compiled by NVRTC, on the host" if nvrtc_installed() else f"no NVRTC: {INSTALL}"),
        },
    ]


@_lists("lengths")
def _lengths() -> Rows:
    import numpy as np

    from pabench.workloads.families import length_families, resolve_lengths

    rows: Rows = []
    for name, family in length_families().items():
        drawn = np.asarray(resolve_lengths(name).draw(SKETCH_DRAWS, seed=0, page_size=16))
        bins = np.minimum(np.log2(np.maximum(drawn, 1)).astype(int), SKETCH_BINS - 1)
        rows.append(
            {
                "name": name,
                "sketch": sketch(np.bincount(bins, minlength=SKETCH_BINS).tolist()),
                "mean": round(float(drawn.mean())),
                "p50": int(np.median(drawn)),
                "p99": int(np.percentile(drawn, 99)),
                "defaults": dict(family.defaults),
                "about": family.about,
            }
        )
    return rows


@_lists("families")
def _families() -> Rows:
    from pabench.problem.families import FAMILIES

    return [{"name": name, "about": _first_line(make)} for name, make in FAMILIES.items()]


@_lists("dtypes")
def _dtypes() -> Rows:
    from pabench.problem.dtypes import DTYPES

    return [
        {"name": t.name, "bytes": t.itemsize, "unit_roundoff": t.unit_roundoff, "maximum": t.maximum}
        for t in DTYPES.values()
    ]


@_lists("placements")
def _placements() -> Rows:
    from pabench.problem.placement import PLACEMENT_NOTES

    return [{"name": name, "about": about} for name, about in PLACEMENT_NOTES.items()]


@_lists("resources")
def _resources() -> Rows:
    from pabench.resources import RESOURCES, resource_dir

    return [{"name": name, "path": str(resource_dir(name))} for name in RESOURCES]


@_lists("models")
def _models() -> Rows:
    from pabench.problem.model_presets import MODELS

    return [
        {
            "name": model.name,
            "about": model.title,
            "layers": model.num_layers,
            "kv_heads": model.num_kv_heads,
            "bytes_per_token": model.token_bytes(2),
            "source": model.source,
        }
        for model in MODELS.values()
    ]


@_lists("schedulers")
def _schedulers() -> Rows:
    from pabench.activities.serving.schedulers import scheduler_by_name, scheduler_names

    return [
        {"name": s.name, "allocator": s.allocator, "preemption": s.preemption, "about": s.about}
        for s in map(scheduler_by_name, scheduler_names())
    ]


@_lists("arrivals")
def _arrivals() -> Rows:
    from pabench.workloads.arrivals import ARRIVALS

    return [{"name": n, "defaults": dict(k.defaults), "about": k.about} for n, k in ARRIVALS.items()]


@_lists("prefixes")
def _prefixes() -> Rows:
    from pabench.workloads.prefixes import PREFIXES

    return [{"name": n, "defaults": dict(k.defaults), "about": k.about} for n, k in PREFIXES.items()]


@_lists("baselines")
def _baselines() -> Rows:
    from pabench.comparison.baselines import baselines

    return [
        {
            "name": one.name,
            "kind": one.run.kind,
            "results": len(one.run.records),
            "started": one.run.record["started"],
            "subjects": list(dict.fromkeys(record.subject.name for record in one.run.records)),
        }
        for one in baselines()
    ]


@_lists("gpus")
def _gpus() -> Rows:
    from pabench.timing.gpus import GPUS

    return [asdict(gpu) for gpu in GPUS.values()]


def sketch(counts: list[int]) -> str:
    """Return a bar of eighths for each count; a space where there is nothing, full height at the largest."""
    try:
        SKETCH_UNICODE.encode(sys.stdout.encoding or "ascii")
        ramp = SKETCH_UNICODE
    except (UnicodeEncodeError, LookupError):
        ramp = SKETCH_ASCII
    top = max(counts, default=0)
    return "".join(ramp[-(-count * len(ramp) // top) - 1] if count else " " for count in counts)


@click.command()
@click.argument("what", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(what: str | None, as_json: bool) -> None:
    """List the values that options take: allocators, backends, checks, devices, dtypes, ...

    Without WHAT, lists the lists.

    \b
    Examples:
      pabench list lengths
      pabench list backends --json
    """
    if what is None:
        say(_json("lists", sorted(ROWS)) if as_json else "\n".join(sorted(ROWS)))
        return
    if what not in ROWS:
        raise UnknownName("list", what, ROWS)
    rows = ROWS[what]()
    if as_json:
        say(_json(what, rows))
        return
    if what == "lengths":
        say(
            f"{SKETCH_DRAWS} draws each; a column of the sketch is a doubling of the length,\n"
            f"from 1 to {2 ** (SKETCH_BINS - 1):,} tokens and more.\n"
            "Other lengths: list:100,250,17 (themselves), or --trace FILE.\n"
        )
    shown = [{name: value for name, value in row.items() if name not in IN_JSON} for row in rows]
    say(text_table(shown, width=screen_width(), keep=("about",), elsewhere="--json"))


def _json(what: str, rows: Sequence[Any]) -> str:
    return json.dumps(stamped("list", {"list": what, "rows": rows}), indent=2, ensure_ascii=False)


def _first_line(documented: object) -> str:
    return (documented.__doc__ or "").strip().splitlines()[0]
