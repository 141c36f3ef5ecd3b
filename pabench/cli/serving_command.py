# SPDX-License-Identifier: Apache-2.0
"""``pabench serving``: a workload, a scheduler, page allocators, and what came of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pabench.cli.model_options import (
    chosen_model,
    item_bytes,
    pool_bytes_of,
    weight_bytes_of,
)
from pabench.cli.serving_options import serving_options
from pabench.cli.text_table import screen_width, text_table
from pabench.console import say
from pabench.errors import EXIT_FAILURE, EXIT_OK, UsageError
from pabench.run.deadlines import poll_seconds
from pabench.run.options import Options, activity_options, default_out, options_of, whole
from pabench.text import one_line

if TYPE_CHECKING:
    from pabench.activities.serving.config import ServingConfig
    from pabench.run.record import Record
    from pabench.timing.gpus import Gpu

CALIBRATION = ("weight_bytes", "bandwidth", "tflops", "page_cost_s", "fixed_cost_s", "swap_gbps")
KERNEL_DEFAULTS = {"count": 50, "pool_slots": 2048, "max_seqs": 8}
"""The kernel executor holds every operation and every slot to the model: for small pools."""
DEFAULT_SEQS = 256
WITHOUT = ("checked", "inputs")

EPILOG = """\b
Examples:
  pabench serving --trace azure.csv --allocator host --page-sizes 16,64
  pabench serving --lengths azure-conv --executor model --gpu h100 --arrivals poisson:rate=5
  pabench serving --lengths fixed:len=100 --outputs fixed:len=50 --scheduler orca-max --pool-slots 16384
  pabench serving --lengths uniform:low=1,high=24 --outputs uniform:low=1,high=12 --executor kernel
  pabench serving --reproduce reproduction.md"""


@click.command(name="serving", epilog=EPILOG)
@serving_options
@activity_options(without=WITHOUT)
@click.pass_context
def command(context: click.Context, /, **given: Any) -> int:
    """Serve a workload with continuous batching: memory, preemptions and latency.

    Each allocator serves the whole workload at each page size.  The null executor counts steps; the model
    executor gives them the time that a GPU would take at best (modelled); the kernel executor decodes through
    the allocator's tables and compares with the oracle.
    """
    if given["reproduce"] is not None:
        typed = click.core.ParameterSource.COMMANDLINE
        others = (
            option
            for option in sorted(given)
            if option not in ("reproduce", "seed") and context.get_parameter_source(option) == typed
        )
        if (other := next(others, None)) is not None:
            name = other.removesuffix("_name").removesuffix("_file").replace("_", "-")
            raise UsageError(f"--reproduce goes with --seed alone, not with --{name}")
        seed = given["seed"]
        return _reproduce(given["reproduce"], 0 if seed is None else whole("--seed", seed, low=0, high=2**62))
    from pabench.activities.serving.plug import Serving
    from pabench.device.registry import DeviceRequest
    from pabench.run.command import Words, run_activity
    from pabench.subjects.reference import ALLOCATOR
    from pabench.subjects.registry import is_place, load_allocator, resolve_all

    options = options_of("serving", given, without=WITHOUT)
    device = DeviceRequest(
        name=options.device,
        kernels=None if options.kernels is None else str(options.kernels),
        poll_seconds=poll_seconds(options.deadline_s),
    )
    device.check()
    config = _config(given, options)
    resolve_all(ALLOCATOR, config.allocators)
    # code at a place is run in a worker alone, and may use a device
    hosts = (name for name in config.allocators if not is_place(ALLOCATOR, name))
    on_host = all(name in config.allocators and not load_allocator(name).on_device for name in hosts)
    placed = any(is_place(ALLOCATOR, name) for name in config.allocators)
    if options.kernels is not None and config.executor != "kernel" and on_host and not placed:
        raise UsageError(
            f"--kernels {options.kernels}: no kernel runs here",
            hint="--executor kernel, or an allocator that runs on the device",
        )
    out = options.out or default_out("serving")
    plug = Serving(config, device=device, out=out)
    words = Words(who=", ".join(config.allocators), summary=_summary)
    # the host's time is a figure, and a large workload takes memory: one worker, unless more are asked for
    return run_activity(plug, replace(options, out=out), words, one_job=True)


def _summary(records: Sequence[Record]) -> Iterator[str]:
    if records:
        yield text_table([_row(record) for record in records], width=screen_width())
    for record in records:
        yield from _explain(record)
    # one sentence for all servers that it holds for
    found = [
        (record.subject.name, (record.details.get("page_model") or {}).get("advice")) for record in records
    ]
    told = dict.fromkeys(advice for _, advice in found if advice)
    for advice in told:
        names = ", ".join(dict.fromkeys(name for name, one in found if one == advice))
        yield advice if len(told) == 1 else f"{names}: {advice}"


def _row(record: Record) -> dict[str, Any]:
    found = {name: figure.value for name, figure in record.figures.items()}

    def share(name: str) -> str | None:
        value = found.get(f"{name}_share")
        return None if value is None else f"{value:.1%}"

    def rounded(name: str, scale: float = 1.0, digits: int = 4) -> float | None:
        value = found.get(name)
        return None if value is None else float(f"{value * scale:.{digits}g}")

    row: dict[str, Any] = {
        "allocator": record.subject.name,
        "page": record.details["page_size"],
        "status": str(record.status),
    }
    if "span_s" in found and record.figures["span_s"].provenance == "modelled":
        row |= {
            "tokens/s": rounded("output_tokens_per_s"),
            "TTFT p50 ms": rounded("ttft_s_p50", 1e3),
            "p99": rounded("ttft_s_p99", 1e3),
            "TPOT p50 ms": rounded("tpot_s_p50", 1e3),
        }
    row |= {
        "served": found.get("served"),
        "skipped": found.get("skipped"),
        "batch": rounded("mean_batch"),
        "tokens": share("tokens"),
        "reserved": share("reserved"),
        "internal": share("internal"),
        "external": share("external"),
        "idle": share("idle"),
        "preempted": found.get("preemptions"),
        "recompute": rounded("recompute_overhead"),
        "hits": rounded("hit_rate"),
    }
    row["steps/s host"] = rounded("sequence_steps_per_host_s", 1.0, 3)
    return row


def _explain(record: Record) -> Iterator[str]:
    details = record.details
    who = f"{record.subject.name} at page size {details['page_size']}"
    if record.reason is not None:
        yield f"{who}: {record.status}: {one_line(record.reason)}"
    if record.failure is not None:
        yield f"  again: {record.failure.replay}"
    for reason, count in details.get("skip_reasons", {}).items():
        yield f"{who}: {count:,} requests skipped: {one_line(reason)}"
    for one in details.get("priorities", ()):
        clock = f"{one['ttft_s_p50']:.4g} s, p99 {one['ttft_s_p99']:.4g} s" if one["served"] else "-"
        served = f"{one['served']:,} of {one['requests']:,} served, {one['preemptions']:,} preemptions"
        yield f"{who}: priority {one['priority']}: {served}, TTFT p50 {clock}"
    found = {name: figure.value for name, figure in record.figures.items()}
    if (run := found.get("pages_per_run")) and (page := found.get("copies_by_page")):
        apart = f"{found['copies_by_layer']:,.4g} where each layer has tensors of its own"
        yield f"{who}: a sequence moves in {page:,.4g} copies of {run:.4g} pages, {apart}"
    if (out := found.get("pages_out")) or found.get("pages_in"):
        yield f"{who}: {out:,} pages moved to another store, {found['pages_in']:,} came back"
    if checked := details.get("checked_steps"):
        yield f"{who}: invariants hold after each of {checked:,} steps"
    if kernel := details.get("kernel"):
        yield (
            f"{who}: {kernel['launches']:,} steps decoded by the kernel, {kernel['sequences']:,} sequences, "
            f"worst err/T {kernel['max_ratio']:.3g}"
        )


def _config(given: Mapping[str, Any], options: Options) -> ServingConfig:
    from pabench.activities.serving.config import ServingConfig
    from pabench.activities.serving.schedulers import scheduler_by_name
    from pabench.activities.sweep.axes import parse_numbers
    from pabench.timing.gpus import gpu_by_name

    executor = given["executor"]
    if given["pool_gib"] is not None and given["pool_slots"] is not None:
        raise UsageError("give --pool-gib or --pool-slots, not both")
    small = KERNEL_DEFAULTS if executor == "kernel" else {}
    scheduler = scheduler_by_name(given["scheduler"])
    model, gpu = chosen_model(given["model_name"], None, 1, 1), gpu_by_name(given["gpu_name"])
    itemsize = item_bytes(given["cache_dtype"] or given["dtype"])
    item_bytes(given["dtype"])
    token_bytes = model.token_bytes(itemsize, gpus=given["gpus"])
    weight_bytes = weight_bytes_of(model, given["dtype"], given["weight_dtype"])
    if model.window_layers or model.state_bytes:
        say(f"{model.title}: every layer is served as one that keeps all tokens, an upper bound", err=True)
    slots = given["pool_slots"] or (small.get("pool_slots") if given["pool_gib"] is None else None)
    if slots is None:
        slots = pool_bytes_of(given["pool_gib"], gpu, given["gpus"], weight_bytes) // token_bytes
    swap = given["swap_slots"]
    if swap is None:
        swap = slots if scheduler.preemption == "swap" and not given["host_slots"] else 0
    return ServingConfig(
        **{name: given[name] for name in ("lengths", "outputs", "arrivals", "prefixes", "executor", "gpus")},
        **{name: given[name] for name in ("max_tokens", "token_budget", "sample_steps", "prefix_cache")},
        **{name: given[name] for name in ("watermark", "check_steps", "kernel_steps")},
        trace=None if given["trace"] is None else str(given["trace"]),
        **{name: given[name] for name in ("block_tokens", "time_unit", "turns")},
        count=given["requests"] or (small.get("count") if given["trace"] is None else None),
        seed=options.seed,
        scheduler=given["scheduler"],
        priorities=_shares(given["priorities"]),
        allocators=tuple(dict.fromkeys(given["allocator"])) or (scheduler.allocator,),
        page_sizes=tuple(dict.fromkeys(parse_numbers("--page-sizes", given["page_sizes"]))),
        model=model.name,
        token_bytes=token_bytes,
        cache_parts=(model.num_layers, 1 if model.latent_dim else 2),
        pool_slots=slots,
        swap_slots=swap,
        host_slots=given["host_slots"],
        max_seqs=given["max_seqs"] or small.get("max_seqs", DEFAULT_SEQS),
        ttft_limit_s=_seconds("--ttft-limit-ms", given["ttft_limit_ms"]),
        tpot_limit_s=_seconds("--tpot-limit-ms", given["tpot_limit_ms"]),
        **_clock(given, gpu, weight_bytes),
    )


def _shares(text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        return tuple(float(share) for share in text.split(","))
    except ValueError:
        raise UsageError(f"--priorities {text!r}: must be shares, such as 0.1,0.9") from None


def _clock(given: Mapping[str, Any], gpu: Gpu, weight_bytes: float) -> dict[str, Any]:
    """Return ``step_s`` or ``constants`` of the configuration."""
    from pabench.problem.checks import finite_number

    step_ms = given["step_ms"]
    if step_ms is not None and given["executor"] == "model":
        raise UsageError("--step-ms is for the null and the kernel executor; the model has its own time")
    if given["executor"] != "model":
        if given["calibration"] is not None:
            raise UsageError("--calibration is for --executor model")
        if step_ms is None:
            return {}
        return {"step_s": finite_number("--step-ms", step_ms, low=1e-6, high=1e9) / 1e3}
    constants = {
        "weight_bytes": weight_bytes,
        "bandwidth": given["gpus"] * gpu.memory_gbps * 1e9,
        "tflops": given["gpus"] * gpu.tensor_tflops,
        "page_cost_s": finite_number("--page-cost-ns", given["page_cost_ns"], low=0.0) * 1e-9,
        "fixed_cost_s": finite_number("--fixed-cost-us", given["fixed_cost_us"], low=0.0) * 1e-6,
        "swap_gbps": 25.0,
        **_calibration(given["calibration"]),
    }
    return {"constants": constants}


def _calibration(path: Path | None) -> dict[str, float]:
    from pabench.problem.checks import finite_number

    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--calibration {path}: cannot be read: {error}") from None
    if not isinstance(found, dict) or not set(found) <= set(CALIBRATION):
        raise UsageError(f"--calibration {path}: must be a JSON object of {', '.join(CALIBRATION)}")
    return {key: finite_number(f"{key} in {path}", value, low=0.0) for key, value in found.items()}


def _seconds(option: str, milliseconds: float | None) -> float | None:
    if milliseconds is None:
        return None
    if not (math.isfinite(milliseconds) and milliseconds > 0):
        raise UsageError(f"{option} {milliseconds}: must be above 0")
    return milliseconds / 1e3


def _reproduce(path: Path, seed: int) -> int:
    from pabench.activities.serving.reproduce import reproduce
    from pabench.report.reproduction import reproduction_files
    from pabench.run.files import atomic_write_text, check_output

    check_output("--reproduce", path)
    found = reproduce(seed=seed, note=lambda line: say(line, err=True))
    for file, text in reproduction_files(found, path).items():
        atomic_write_text(file, text)
    say(f"{'every acceptance is met' if found.met else 'an acceptance is missed'}: {path}")
    return EXIT_OK if found.met else EXIT_FAILURE
