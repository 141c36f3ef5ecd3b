# SPDX-License-Identifier: Apache-2.0
"""``pabench memory``: what paging saves for given lengths and a model, and the best page size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pabench.cli.memory_layouts import LAYOUT, figures_of_layouts, read_layouts, words_of_layouts
from pabench.cli.model_options import (
    CACHE_DTYPE,
    GIB,
    WEIGHT_DTYPE,
    chosen_model,
    item_bytes,
    pool_bytes_of,
    weight_bytes_of,
)
from pabench.cli.stamp import check_json, json_option, write_json
from pabench.cli.trace_options import TURNS
from pabench.console import say
from pabench.errors import EXIT_FAILURE, EXIT_OK, UsageError

if TYPE_CHECKING:
    from pabench.problem.dtypes import Array
    from pabench.problem.models import ModelShape
    from pabench.problem.step_time import StepModel
    from pabench.timing.gpus import Gpu

PAGE_SIZES = "1,8,16,32,64,128,256"


@click.command(name="memory")
@click.option(
    "--model",
    "model_name",
    metavar="NAME",
    help="Model preset (`pabench list models`) or a checkpoint's config.json.",
)
@click.option("--heads", metavar="HQ:HKV", help="Query and KV heads, instead of --model.")
@click.option(
    "--head-dim", type=click.IntRange(1, 1024), default=128, show_default=True, help="Elements per head."
)
@click.option(
    "--layers", type=click.IntRange(1, 10_000), default=32, show_default=True, help="Attention layers."
)
@click.option(
    "--dtype",
    default="bfloat16",
    metavar="NAME",
    show_default=True,
    help="Data type of KV cache and weights.",
)
@CACHE_DTYPE
@WEIGHT_DTYPE
@click.option(
    "--lengths", metavar="SPEC", help="Sequence lengths: family, table or list.  [default: azure-conv]"
)
@click.option(
    "--trace", type=click.Path(path_type=Path), metavar="FILE", help="Request trace to take lengths from."
)
@TURNS
@click.option(
    "--requests", type=click.IntRange(1, 10**7), default=20_000, show_default=True, help="Sequences to draw."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Seed of the drawn lengths.",
)
@click.option("--page-sizes", default=PAGE_SIZES, metavar="LIST", show_default=True, help="Tokens per page.")
@click.option(
    "--gpu",
    "gpu_name",
    default="h100",
    metavar="NAME",
    show_default=True,
    help="GPU model, see `pabench list gpus`.",
)
@click.option(
    "--gpus",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="GPUs per replica (tensor parallel).",
)
@click.option(
    "--pool-gib",
    type=float,
    metavar="GIB",
    help="KV-cache pool size in GiB.  [default: 0.9 x GPU memory - weights]",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    metavar="N",
    help="Maximum tokens per sequence.  [default: the longest]",
)
@click.option(
    "--page-cost-ns",
    type=float,
    default=10.0,
    show_default=True,
    help="Modelled cost per page and step, in ns.",
)
@click.option(
    "--fixed-cost-us",
    type=float,
    default=1000.0,
    show_default=True,
    help="Modelled fixed cost per step, in us.",
)
@LAYOUT
@json_option("all results")
def command(
    model_name: str | None,
    heads: str | None,
    head_dim: int,
    layers: int,
    dtype: str,
    cache_dtype: str | None,
    weight_dtype: str | None,
    lengths: str | None,
    trace: Path | None,
    turns: str | None,
    requests: int,
    seed: int,
    page_sizes: str,
    gpu_name: str,
    gpus: int,
    pool_gib: float | None,
    max_tokens: int | None,
    page_cost_ns: float,
    fixed_cost_us: float,
    layouts: tuple[str, ...],
    json_file: Path | None,
) -> int:
    """Waste, gain, capacity and throughput by page size, and the best page size.

    Memory figures are exact for the given lengths; throughput is modelled (docs/mathematics.md).  With
    --trace the lengths are those of the file in its order, prompt and output together; --lengths are drawn.
    Exit code 1: two --layout find a token in different places.

    \b
    Examples:
      pabench memory --model llama-3-8b --lengths azure-conv
      pabench memory --heads 32:8 --layers 32 --lengths lognormal:mean=1024,cv=1 --page-sizes 8,16,32
    """
    from pabench.activities.sweep.axes import parse_numbers
    from pabench.problem.checks import finite_number
    from pabench.timing.gpus import gpu_by_name

    kept = dtype if cache_dtype is None else cache_dtype
    itemsize = item_bytes(kept)
    check_json(json_file)
    sizes = parse_numbers("--page-sizes", page_sizes)
    model = chosen_model(model_name, heads, head_dim, layers)
    gpu = gpu_by_name(gpu_name)
    costs = (
        finite_number("--page-cost-ns", page_cost_ns, low=0.0) * 1e-9,
        finite_number("--fixed-cost-us", fixed_cost_us, low=0.0) * 1e-6,
    )
    item_bytes(dtype)
    weight_bytes = weight_bytes_of(model, dtype, weight_dtype)
    pool_bytes = pool_bytes_of(pool_gib, gpu, gpus, weight_bytes)
    sources = {}
    if lengths is not None or trace is None:
        spec = "azure-conv" if lengths is None else lengths
        sources[spec] = _drawn(spec, requests, seed)
    if trace is not None:
        from pabench.workloads.meaning import LENGTHS
        from pabench.workloads.traces import read_trace

        sources[f"trace {trace.name}"] = read_trace(trace, replace(LENGTHS, turns=turns)).total_tokens
    elif turns is not None:
        raise UsageError(f"--turns {turns}: is for --trace alone")
    token_bytes = model.token_bytes(itemsize, gpus=gpus)
    readings = read_layouts(layouts, model, gpus, sizes[0], pool_bytes // (token_bytes * sizes[0]))
    say(
        f"{model.title}, cache in {kept}: {token_bytes:,} bytes of cache a token; "
        f"{weight_bytes / GIB:.1f} GiB of weights; pool {pool_bytes / GIB:.2f} GiB on {gpus} x {gpu.title}"
    )
    for note in _notes(model, gpus):
        say(note)
    record: dict[str, Any] = {"model": model.name, "dtype": kept, "token_bytes": token_bytes}
    record |= {"weight_bytes": weight_bytes, "state_bytes": model.state_bytes}
    record |= {"pool_bytes": pool_bytes, "gpu": gpu.name, "gpus": gpus, "sources": {}}
    for name, drawn in sources.items():

        def held_bytes(lengths: Array, size: int) -> Array:
            return model.held_bytes(lengths, size, itemsize, gpus=gpus)

        model_of_step = _step_model(weight_bytes, gpu, gpus, held_bytes(drawn, 1), drawn, costs)
        result = _figures(drawn, sizes, pool_bytes, token_bytes, max_tokens, model_of_step, held_bytes)
        record["sources"][name] = result
        _print(name, result)
    rows = figures_of_layouts(readings, itemsize) if readings else []
    for line in words_of_layouts(rows, sizes[0]):
        say(line)
    record["layouts"] = rows
    write_json(json_file, "memory", record)
    return EXIT_FAILURE if any(row["unlike_first"] for row in rows) else EXIT_OK


def _notes(model: ModelShape, gpus: int) -> Iterator[str]:
    """What of the model does not grow with each token, or is held more than once."""
    if model.window_layers:
        layers = f"{model.window_layers} of {model.num_layers} layers"
        yield f"{layers} keep a window of {model.window:,} tokens, as the figures of what fits have it"
    if model.state_bytes:
        yield f"a state of {model.state_bytes / 2**20:.1f} MiB a sequence besides"
    if (copies := model.copies(gpus)) > 1:
        yield f"tensor parallelism over {gpus} GPUs holds the cache {float(copies):g} times"


def _drawn(spec: str, requests: int, seed: int) -> Array:
    import numpy as np

    from pabench.workloads.families import resolve_lengths

    return np.asarray(resolve_lengths(spec).draw(requests, seed=seed, page_size=16), dtype=np.int64)


def _step_model(
    weight_bytes: float, gpu: Gpu, gpus: int, held: Array, drawn: Array, costs: tuple[float, float]
) -> StepModel:
    from pabench.problem.step_time import StepModel

    return StepModel(
        weight_bytes=weight_bytes,
        bandwidth=gpus * gpu.memory_gbps * 1e9,
        token_bytes=float(held.sum()) / max(int(drawn.sum()), 1) or 1.0,
        mean_tokens=max(float(drawn.mean()), 0.5),
        page_cost_s=costs[0],
        fixed_cost_s=costs[1],
    )


def _figures(
    drawn: Array,
    sizes: tuple[int, ...],
    pool_bytes: int,
    token_bytes: int,
    longest: int | None,
    step: StepModel,
    held_bytes: Callable[[Array, int], Array],
) -> dict[str, Any]:
    import numpy as np

    from pabench.problem import capacity
    from pabench.problem.advice import OFFERED, advise
    from pabench.problem.memory import memory_figures
    from pabench.problem.step_time import throughput_gain

    slots = capacity.pool_slots(pool_bytes, token_bytes)
    largest = int(drawn.max(initial=0))
    slab = max(longest or largest, 1)
    if largest > slab:
        raise UsageError(f"--max-tokens {slab}: must be at least the longest length, {largest}")
    reserved = int(pool_bytes // held_bytes(np.array([slab]), 1)[0])
    # how many of the first fit, each as long as the longest of them
    padded = np.arange(1, drawn.size + 1) * held_bytes(np.maximum.accumulate(drawn), 1)
    lengths, tokens = drawn.tolist(), int(drawn.sum())
    each = replace(step, weight_bytes=0.0, fixed_cost_s=0.0)
    rows = []
    for size in sizes:
        held = memory_figures(lengths, size)
        paged = int(np.searchsorted(np.cumsum(held_bytes(drawn, size)), pool_bytes, side="right"))
        gain = None
        if reserved and paged:
            gain = throughput_gain(
                reserved,
                paged,
                fixed_s=step.step_s(0, size),
                per_sequence_s=each.step_s(1, size),
            )
        rows.append(
            {
                "page_size": size,
                "pages": held.num_pages,
                "waste_tokens": float(capacity.mean_waste(drawn, size)),
                "expected_waste_tokens": float(capacity.expected_waste(size)),
                "internal_fragmentation": float(held.internal_fragmentation),
                "efficiency_gain": float(held.efficiency_gain),
                "page_bytes": size * token_bytes,
                "csr_table_bytes": held.csr_table_bytes,
                "padded_table_bytes": held.block_table_bytes,
                "capacity": paged,
                "modelled_tokens_per_s": step.full_throughput(pool_bytes, size),
                "modelled_gain_over_reserved": gain,
            }
        )
    best = step.best_interval(pool_bytes)
    waste = [float(memory_figures(lengths, size).internal_fragmentation) for size in OFFERED]
    advice = advise(step, pool_bytes, waste)
    return {
        "requests": int(drawn.size),
        "tokens": tokens,
        "mean_tokens": tokens / drawn.size,
        "max_tokens": largest,
        "pool_slots": slots,
        "reserved_capacity": reserved,
        "padded_capacity": int(np.searchsorted(padded, pool_bytes, side="right")),
        "page_sizes": rows,
        "best_page_size": {
            "real": step.best_page_size(pool_bytes),
            "best": best.best,
            "low": best.low,
            "high": best.high,
            "modelled_tokens_per_s": best.throughput,
        },
        "advice": {**asdict(advice), "sentence": advice.sentence},
    }


def _print(name: str, result: dict[str, Any]) -> None:
    say(
        f"\n{name}: {result['requests']:,} requests of {result['mean_tokens']:,.1f} tokens on average, "
        f"longest {result['max_tokens']:,}; {result['pool_slots']:,} slots"
    )
    say(
        f"fit at once: {result['reserved_capacity']:,} reserved for the longest, "
        f"{result['padded_capacity']:,} padded to the batch's longest"
    )
    say("page size | waste a sequence | (P-1)/2 | internal |   gain | paged fit | modelled tokens/s")
    rows = result["page_sizes"]
    top = max(row["modelled_tokens_per_s"] for row in rows)
    for row in rows:
        bar = "#" * round(20 * row["modelled_tokens_per_s"] / top)
        say(
            f"{row['page_size']:>9} | {row['waste_tokens']:>16.4f} | {row['expected_waste_tokens']:>7.1f} | "
            f"{row['internal_fragmentation']:>8.4%} | {row['efficiency_gain']:>6.2f} | "
            f"{row['capacity']:>9,} | {row['modelled_tokens_per_s']:>12,.0f} {bar}"
        )
    say(result["advice"]["sentence"])
