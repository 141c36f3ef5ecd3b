# SPDX-License-Identifier: Apache-2.0
"""The options of ``pabench serving``."""

from __future__ import annotations

from pathlib import Path

import click

from pabench.cli.model_options import CACHE_DTYPE, WEIGHT_DTYPE
from pabench.cli.trace_options import Command, trace_options

TRACE = (
    click.option("--trace", type=click.Path(path_type=Path), metavar="FILE", help="Request trace to serve."),
)
OTHERS = (
    click.option(
        "--lengths",
        metavar="SPEC",
        help="Prompt lengths, or a table of prompts and outputs.  [default: azure-conv]",
    ),
    click.option(
        "--outputs", metavar="SPEC", help="Output lengths.  [default: from the table, else fixed:len=128]"
    ),
    click.option(
        "--requests",
        type=click.IntRange(1, 10**8),
        metavar="N",
        help="Requests to serve.  [default: 1000, or the whole trace]",
    ),
    click.option(
        "--arrivals",
        metavar="SPEC",
        help="Arrivals, see `pabench list arrivals`.  [default: at-once; the trace's with a model clock]",
    ),
    click.option(
        "--prefixes",
        metavar="SPEC",
        help="Shared prefixes, see `pabench list prefixes`.  [default: the trace's, else none]",
    ),
    click.option(
        "--priorities",
        metavar="LIST",
        help="Shares of priority classes, most urgent first, such as 0.1,0.9.  [default: one class]",
    ),
    click.option(
        "--scheduler",
        default="fcfs",
        show_default=True,
        metavar="NAME",
        help="Scheduler, see `pabench list schedulers`, or FILE.py:NAME.",
    ),
    click.option(
        "--allocator",
        multiple=True,
        metavar="NAME",
        help="Page allocator, see `pabench list allocators`; may be repeated.  [default: the scheduler's]",
    ),
    click.option("--page-sizes", default="16", show_default=True, metavar="LIST", help="Tokens per page."),
    click.option(
        "--executor",
        default="null",
        show_default=True,
        metavar="NAME",
        help="What runs a step: null, model or kernel.",
    ),
    click.option(
        "--model",
        "model_name",
        metavar="NAME",
        default="llama-3-8b",
        show_default=True,
        help="Model preset or config.json.",
    ),
    click.option(
        "--dtype",
        default="bfloat16",
        show_default=True,
        metavar="NAME",
        help="Data type of KV cache and weights.",
    ),
    CACHE_DTYPE,
    WEIGHT_DTYPE,
    click.option(
        "--gpu",
        "gpu_name",
        default="h100",
        show_default=True,
        metavar="NAME",
        help="GPU model, see `pabench list gpus`.",
    ),
    click.option(
        "--gpus",
        type=click.IntRange(1, 1024),
        default=1,
        show_default=True,
        help="GPUs per replica (tensor parallel).",
    ),
    click.option(
        "--calibration",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="JSON file of step-time constants.",
    ),
    click.option(
        "--pool-gib",
        type=float,
        metavar="GIB",
        help="KV-cache pool size in GiB.  [default: 0.9 x GPU memory - weights]",
    ),
    click.option(
        "--pool-slots", type=click.IntRange(1, 2**40), metavar="N", help="KV-cache pool size in tokens."
    ),
    click.option(
        "--swap-slots",
        type=click.IntRange(0, 2**40),
        metavar="N",
        help="Swap space in tokens.  [default: as the pool]",
    ),
    click.option(
        "--host-slots",
        type=click.IntRange(0, 2**40),
        default=0,
        metavar="N",
        help="Lower tier of the prefix cache in tokens: what would be evicted moves there and comes back; "
        "with --scheduler swap, those that are preempted too.",
    ),
    click.option(
        "--max-seqs",
        type=click.IntRange(1, 2**20),
        metavar="N",
        help="Maximum concurrent sequences.  [default: 256]",
    ),
    click.option(
        "--max-tokens",
        type=click.IntRange(1, 2**31 - 1),
        metavar="N",
        help="Maximum tokens per sequence.  [default: the longest]",
    ),
    click.option(
        "--token-budget",
        type=click.IntRange(1),
        default=8192,
        show_default=True,
        help="Maximum tokens per step.",
    ),
    click.option(
        "--watermark",
        type=float,
        default=0.0,
        show_default=True,
        help="Fraction of the pool kept free on admission.",
    ),
    click.option("--prefix-cache", is_flag=True, help="Use the allocator's prefix cache."),
    click.option("--check-steps", type=click.IntRange(0), default=0, help="Check invariants every N steps."),
    click.option("--kernel-steps", type=click.IntRange(1), default=1, help="Run the kernel every N steps."),
    click.option(
        "--ttft-limit-ms", type=float, metavar="MS", help="Limit on time to first token, for goodput."
    ),
    click.option(
        "--tpot-limit-ms", type=float, metavar="MS", help="Limit on time per output token, for goodput."
    ),
    click.option(
        "--page-cost-ns",
        type=float,
        default=10.0,
        show_default=True,
        help="Modelled cost per page and step, in ns.",
    ),
    click.option(
        "--fixed-cost-us",
        type=float,
        default=1000.0,
        show_default=True,
        help="Modelled fixed cost per step, in us.",
    ),
    click.option(
        "--step-ms",
        type=float,
        metavar="MS",
        help="Duration of a step of the null executor.  [default: 1000]",
    ),
    click.option(
        "--sample-steps", type=click.IntRange(1), default=16, show_default=True, help="Steps between samples."
    ),
    click.option(
        "--reproduce",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write the vLLM paper's tables to FILE.",
    ),
)


def serving_options(command: Command) -> Command:
    """Add all of them, those of a trace behind ``--trace``."""
    for option in reversed(OTHERS):
        command = option(command)
    command = trace_options(command)
    for option in reversed(TRACE):
        command = option(command)
    return command
