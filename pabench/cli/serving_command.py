"""``pabench serving``: a workload, a scheduler, page allocators, and what came of it."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pabench.cli.model_options import GIB, chosen_model, item_bytes, pool_bytes_of
from pabench.cli.run_folder import default_out, stop_on_sigterm
from pabench.cli.text_table import text_table
from pabench.errors import EXIT_FAILURE, EXIT_OK, InvalidCase, UsageError

if TYPE_CHECKING:
    from pabench.activities.serving.config import ServingConfig
    from pabench.activities.serving.executors import Executor
    from pabench.device.base import Device
    from pabench.problem.models import ModelShape
    from pabench.problem.step_time import StepModel
    from pabench.timing.gpus import Gpu
    from pabench.workloads.requests import Requests

CALIBRATION = ("weight_bytes", "bandwidth", "tflops", "page_cost_s", "fixed_cost_s", "swap_gbps")
KERNEL_DEFAULTS = {"requests": 50, "pool_slots": 2048, "max_seqs": 8}
"""The kernel executor holds every operation and every slot to the model: for small pools."""
DEFAULT_REQUESTS, DEFAULT_SEQS = 1000, 256
DEFAULT_OUTPUTS = "fixed:len=128"

EPILOG = """\b
Examples:
  pabench serving --trace azure.csv --allocator host --page-sizes 16,64
  pabench serving --lengths azure-conv --executor model --gpu h100 --arrivals poisson:rate=5
  pabench serving --lengths fixed:len=100 --outputs fixed:len=50 --scheduler orca-max --pool-slots 16384
  pabench serving --lengths uniform:low=1,high=24 --outputs uniform:low=1,high=12 --executor kernel
  pabench serving --reproduce reproduction.md"""


@click.command(name="serving", epilog=EPILOG)
@click.option("--trace", type=click.Path(path_type=Path), metavar="FILE", help="Requests of a trace file.")
@click.option("--lengths", metavar="SPEC", help="Prompt lengths, or a table that has both.  [azure-conv]")
@click.option("--outputs", metavar="SPEC", help="Output lengths.  [of the table, or fixed:len=128]")
@click.option("--requests", type=click.IntRange(1, 10**8), metavar="N", help="How many.  [1000, or all]")
@click.option("--arrivals", metavar="SPEC", help="`list arrivals`.  [at-once; trace with a model clock]")
@click.option("--prefixes", metavar="SPEC", help="`list prefixes`.  [none, or what the trace says]")
@click.option("--scheduler", default="fcfs", show_default=True, metavar="NAME", help="`list schedulers`.")
@click.option("--allocator", multiple=True, metavar="NAME", help="`list allocators`.  [the scheduler's own]")
@click.option("--page-sizes", default="16", show_default=True, metavar="LIST", help="Tokens of a page.")
@click.option("--executor", default="null", show_default=True, metavar="NAME", help="null, model or kernel.")
@click.option("--model", "model_name", metavar="NAME", default="llama-3-8b", show_default=True)
@click.option("--dtype", default="bfloat16", show_default=True, metavar="NAME", help="Of cache and weights.")
@click.option("--gpu", "gpu_name", default="h100", show_default=True, metavar="NAME", help="`list gpus`.")
@click.option("--gpus", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option("--calibration", type=click.Path(path_type=Path), metavar="FILE", help="JSON of constants.")
@click.option("--pool-gib", type=float, metavar="GIB", help="Cache.  [0.9 of memory less the weights]")
@click.option("--pool-slots", type=click.IntRange(1, 2**40), metavar="N", help="The same in tokens.")
@click.option("--swap-slots", type=click.IntRange(0, 2**40), metavar="N", help="Swap store.  [the pool's]")
@click.option("--max-seqs", type=click.IntRange(1, 2**20), metavar="N", help="At once.  [256]")
@click.option("--max-tokens", type=click.IntRange(1, 2**31 - 1), metavar="N", help="Of one.  [the longest]")
@click.option("--budget", type=click.IntRange(1), default=8192, show_default=True, help="Tokens of a step.")
@click.option("--watermark", type=float, default=0.0, show_default=True, help="Share kept on admission.")
@click.option("--prefix-cache", is_flag=True, help="Look prompts up in the allocator's prefix cache.")
@click.option("--check-steps", type=click.IntRange(0), default=0, help="Check invariants each N steps.")
@click.option("--kernel-steps", type=click.IntRange(1), default=1, help="Run the kernel each N steps.")
@click.option("--device", "device_name", default="auto", show_default=True, metavar="NAME")
@click.option("--ttft-limit-ms", type=float, metavar="MS", help="For goodput.")
@click.option("--tpot-limit-ms", type=float, metavar="MS", help="For goodput.")
@click.option("--page-cost-ns", type=float, default=10.0, show_default=True, help="Of one page and step.")
@click.option("--fixed-cost-us", type=float, default=1000.0, show_default=True, help="Of one step.")
@click.option("--step-ms", type=float, metavar="MS", help="Step of the null executor.  [1000]")
@click.option("--sample-steps", type=click.IntRange(1), default=16, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**62), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="[runs/serving-TIME]")
@click.option("--reproduce", type=click.Path(path_type=Path), metavar="FILE", help="The paper's tables.")
@click.pass_context
def command(context: click.Context, /, **options: Any) -> int:
    """Serve a workload step by step: memory, preemptions and latency by allocator and page size.

    Each allocator serves the whole workload at each page size.  The null executor counts steps; the model
    executor gives them the time that a GPU would take at best (modelled); the kernel executor decodes through
    the allocator's tables and compares with the oracle.
    """
    typed = click.core.ParameterSource.COMMANDLINE
    given = {key for key in options if context.get_parameter_source(key) == typed}
    if options["reproduce"] is not None:
        if others := sorted(given - {"reproduce", "seed"}):
            raise UsageError(f"--reproduce goes with --seed alone, not with --{others[0].replace('_', '-')}")
        return _reproduce(options["reproduce"], options["seed"])
    from pabench.run.directory import check_new

    if options["out"] is not None:
        check_new(options["out"])
    config, record = _config(options)
    return _run(config, record, options, _command_line(given, options))


def _run(config: ServingConfig, record: dict[str, Any], options: dict[str, Any], words: str) -> int:
    from pabench.activities.serving.runner import run_serving
    from pabench.report.render import render_report
    from pabench.run.directory import REPORT_FILE, RunDirectory

    path = options["out"] or default_out("serving")

    @cache
    def device() -> Device:
        from pabench.device.registry import open_device

        return open_device(options["device_name"])

    if config.executor == "kernel":
        device()
    directory = RunDirectory.create(path, kind="serving", command=words, config=record)
    with directory, stop_on_sigterm():
        result = run_serving(config, directory=directory, device=device)
    if result.lines:
        click.echo(text_table([_row(line) for line in result.lines]))
    for line in result.lines:
        _explain(line)
    if result.interrupted:
        click.echo(f"pabench: interrupted: {len(result.lines)} servers are in {path}", err=True)
        return result.exit_code
    click.echo(f"report: {render_report([path], path / REPORT_FILE)}")
    return result.exit_code


def _row(line: dict[str, Any]) -> dict[str, Any]:
    found = line.get("figures") or {}

    def share(name: str) -> str | None:
        value = found.get(f"{name}_share")
        return None if value is None else f"{value:.1%}"

    def rounded(name: str, scale: float = 1.0, digits: int = 4) -> float | None:
        value = found.get(name)
        return None if value is None else float(f"{value * scale:.{digits}g}")

    timed = (line.get("provenance") or {}).get("span_s") == "modelled"
    row: dict[str, Any] = {
        "allocator": line["allocator"],
        "page": line["page_size"],
        "status": line["status"],
        "served": found.get("served"),
        "skipped": found.get("skipped"),
        "batch": rounded("mean_batch"),
        "tokens": share("tokens"),
        "reserved": share("reserved"),
        "internal": share("internal"),
        "external": share("external"),
        "preempted": found.get("preemptions"),
        "recompute": rounded("recompute_overhead"),
        "hits": rounded("hit_rate"),
    }
    if timed:
        row |= {
            "tokens/s": rounded("output_tokens_per_s"),
            "TTFT p50 ms": rounded("ttft_s_p50", 1e3),
            "p99": rounded("ttft_s_p99", 1e3),
            "TPOT p50 ms": rounded("tpot_s_p50", 1e3),
        }
    row["steps/s host"] = rounded("sequence_steps_per_host_s", 1.0, 3)
    return row


def _explain(line: dict[str, Any]) -> None:
    who = f"{line['allocator']} at page size {line['page_size']}"
    if line["status"] != "ok":
        click.echo(f"{who}: {line['status']}: {line['reason']}")
        if line.get("failure"):
            click.echo(f"  again: {line['failure']['replay']}")
    for reason, count in (line.get("skipped") or {}).items():
        click.echo(f"{who}: {count:,} requests skipped: {reason}")
    if line.get("checked_steps"):
        click.echo(f"{who}: invariants hold after each of {line['checked_steps']:,} steps")
    if kernel := line.get("kernel"):
        click.echo(
            f"{who}: {kernel['launches']:,} steps decoded by the kernel, {kernel['sequences']:,} sequences, "
            f"worst err/T {kernel['max_ratio']:.3g}"
        )
    if page := line.get("page_model"):
        near = f"{page['low']} to {page['high']}"
        click.echo(f"{who}: best page size {page['best']} (modelled); within 1 % of it: {near}")


def _config(options: dict[str, Any]) -> tuple[ServingConfig, dict[str, Any]]:
    from pabench.activities.serving.config import EXECUTORS, ServingConfig
    from pabench.activities.serving.page_model import page_curve
    from pabench.activities.serving.schedulers import scheduler_by_name
    from pabench.activities.sweep.axes import parse_numbers
    from pabench.timing.gpus import gpu_by_name

    executor = options["executor"]
    if executor not in EXECUTORS:
        raise InvalidCase("executor", executor, f"must be one of {', '.join(EXECUTORS)}")
    if options["pool_gib"] is not None and options["pool_slots"] is not None:
        raise UsageError("give --pool-gib or --pool-slots, not both")
    small = KERNEL_DEFAULTS if executor == "kernel" else {}
    scheduler = scheduler_by_name(options["scheduler"])
    model, gpu = chosen_model(options["model_name"], None, 1, 1), gpu_by_name(options["gpu_name"])
    itemsize = item_bytes(options["dtype"])
    token_bytes, weight_bytes = model.token_bytes(itemsize), model.parameters * itemsize
    slots = options["pool_slots"] or (small.get("pool_slots") if options["pool_gib"] is None else None)
    if slots is None:
        slots = pool_bytes_of(options["pool_gib"], gpu, options["gpus"], weight_bytes) // token_bytes
    requests, workload = _workload(options, small)
    clock, step = _clock(options, model, gpu, weight_bytes, token_bytes)
    swap = options["swap_slots"]
    if swap is None:
        swap = slots if scheduler.preemption == "swap" else 0
    config = ServingConfig(
        requests=requests,
        workload=workload,
        scheduler=scheduler,
        allocators=tuple(dict.fromkeys(options["allocator"])) or (scheduler.allocator,),
        page_sizes=tuple(dict.fromkeys(parse_numbers("--page-sizes", options["page_sizes"]))),
        pool_slots=slots,
        swap_slots=swap,
        clock=clock,
        page_model=None if step is None else partial(page_curve, step, slots * token_bytes),
        max_seqs=options["max_seqs"] or small.get("max_seqs", DEFAULT_SEQS),
        max_tokens=options["max_tokens"],
        token_budget=options["budget"],
        sample_steps=options["sample_steps"],
        prefix_cache=options["prefix_cache"],
        watermark=options["watermark"],
        executor=executor,
        check_steps=options["check_steps"],
        kernel_steps=options["kernel_steps"],
        ttft_limit_s=_seconds(options["ttft_limit_ms"]),
        tpot_limit_s=_seconds(options["tpot_limit_ms"]),
        gpus=options["gpus"],
    )
    record = {key: value for key, value in options.items() if key not in ("out", "reproduce")}
    record |= {"pool_slots": slots, "pool_gib": slots * token_bytes / GIB, "token_bytes": token_bytes}
    return config, record | {"workload": workload, "num_requests": requests.num_requests}


def _workload(options: dict[str, Any], small: dict[str, int]) -> tuple[Requests, str]:
    from pabench.workloads.arrivals import with_arrivals
    from pabench.workloads.families import length_families, resolve_lengths
    from pabench.workloads.prefixes import with_prefixes
    from pabench.workloads.requests import draw_requests, requests_of_trace

    seed, count, timed = options["seed"], options["requests"], False
    if options["trace"] is not None:
        from pabench.workloads.traces import read_trace

        for name in ("lengths", "outputs"):
            if options[name] is not None:
                raise UsageError(f"--trace has its own lengths: leave --{name} out")
        trace = read_trace(options["trace"])
        requests, timed = requests_of_trace(trace, count=count), trace.timed
        texts = [f"trace:{trace.name}"]
    else:
        prompts, outputs = options["lengths"] or "azure-conv", options["outputs"]
        families = length_families()
        if f"{prompts}-output" in families:
            prompts, outputs = f"{prompts}-prompt", outputs or f"{prompts}-output"
        drawn = resolve_lengths(prompts), resolve_lengths(outputs or DEFAULT_OUTPUTS)
        count = count or small.get("requests", DEFAULT_REQUESTS)
        requests = draw_requests(*drawn, count=count, seed=seed)
        texts = [requests.name]
    default = "trace" if timed and options["executor"] == "model" else "at-once"
    arrivals, prefixes = options["arrivals"] or default, options["prefixes"]
    requests = with_arrivals(requests, arrivals, seed=seed, timed=timed)
    if prefixes is not None:
        requests = with_prefixes(requests, prefixes, seed=seed)
        texts.append(prefixes)
    return requests, ", ".join([*texts, arrivals, f"{requests.num_requests} requests", f"seed {seed}"])


def _clock(
    options: dict[str, Any], model: ModelShape, gpu: Gpu, weight_bytes: float, token_bytes: int
) -> tuple[Callable[[int], Executor], StepModel | None]:
    from pabench.activities.serving.executors import Machine, ModelExecutor, NullExecutor
    from pabench.problem.checks import finite_number
    from pabench.problem.step_time import StepModel

    step_ms = options["step_ms"]
    if step_ms is not None and options["executor"] == "model":
        raise UsageError("--step-ms is for the null and the kernel executor; the model has its own time")
    if options["executor"] != "model":
        if options["calibration"] is not None:
            raise UsageError("--calibration is for --executor model")
        seconds = 1.0 if step_ms is None else finite_number("--step-ms", step_ms, low=1e-6, high=1e9) / 1e3
        return (lambda page_size: NullExecutor(seconds)), None
    constants = {
        "weight_bytes": weight_bytes,
        "bandwidth": options["gpus"] * gpu.memory_gbps * 1e9,
        "tflops": options["gpus"] * gpu.tensor_tflops,
        "page_cost_s": finite_number("--page-cost-ns", options["page_cost_ns"], low=0.0) * 1e-9,
        "fixed_cost_s": finite_number("--fixed-cost-us", options["fixed_cost_us"], low=0.0) * 1e-6,
        "swap_gbps": 25.0,
        **_calibration(options["calibration"]),
    }
    machine = Machine(tflops=constants.pop("tflops"), swap_gbps=constants.pop("swap_gbps"))
    step = StepModel(token_bytes=token_bytes, mean_tokens=1.0, **constants)
    return (lambda size: ModelExecutor(step, page_size=size, model=model, machine=machine)), step


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


def _seconds(milliseconds: float | None) -> float | None:
    if milliseconds is None:
        return None
    if not (math.isfinite(milliseconds) and milliseconds > 0):
        raise UsageError(f"a limit of {milliseconds} ms: must be above 0")
    return milliseconds / 1e3


def _command_line(given: set[str], options: dict[str, Any]) -> str:
    names = {"model_name": "model", "gpu_name": "gpu", "device_name": "device"}
    words = ["pabench", "serving"]
    for key in sorted(given):
        values = options[key] if isinstance(options[key], tuple) else (options[key],)
        for value in values:
            words += [f"--{names.get(key, key).replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def _reproduce(path: Path, seed: int) -> int:
    from pabench.activities.serving.reproduce import reproduce
    from pabench.report.reproduction import reproduction_files
    from pabench.run.files import atomic_write_text

    if not path.absolute().parent.is_dir():
        raise UsageError(f"--reproduce {str(path)!r}: must be a file in an existing folder")
    found = reproduce(seed=seed, note=lambda line: click.echo(line, err=True))
    for file, text in reproduction_files(found, path).items():
        atomic_write_text(file, text)
    click.echo(f"{'every acceptance is met' if found.met else 'an acceptance is missed'}: {path}")
    return EXIT_OK if found.met else EXIT_FAILURE
