"""Runs the servers of a configuration one after another and writes down what came of each."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pabench.activities.serving.config import Server, ServingConfig
from pabench.activities.serving.executors import Executor
from pabench.activities.serving.kernel import KernelExecutor
from pabench.activities.serving.metrics import figures, latency_columns
from pabench.activities.serving.oracle_mode import Watch, failing_history
from pabench.activities.serving.recorded import JudgedAllocator, RecordedAllocator, Violation
from pabench.activities.serving.records import Served
from pabench.activities.serving.series import curves, series
from pabench.activities.serving.serve import serve
from pabench.device.base import Device
from pabench.errors import (
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_NOTHING_RAN,
    EXIT_OK,
    EnvironmentRefused,
    PabenchError,
    Unsupported,
)
from pabench.judge.allocators.history import HistoryCase
from pabench.progress import Progress, make_progress
from pabench.run.case_record import write_case
from pabench.run.directory import RunDirectory
from pabench.run.files import reason
from pabench.subjects.allocators.base import PageAllocator

COLUMNS_DIR = "columns"
COUNTED = (
    *("requests", "served", "skipped", "steps", "sequence_steps", "output_tokens", "preemptions"),
    *("recomputed_tokens", "recompute_overhead", "hit_tokens", "hit_rate", "copied_pages", "peak_batch"),
    *("peak_pages", "tokens_share", "reserved_share", "internal_share", "external_share"),
)
HOST = ("host_s", "allocator_ns", "sequence_steps_per_host_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingResult:
    """How a run ended: the journal's lines, and the exit code of the command line."""

    lines: tuple[dict[str, Any], ...]
    interrupted: bool
    exit_code: int


def run_serving(
    config: ServingConfig,
    *,
    directory: RunDirectory,
    device: Callable[[], Device],
    progress: Callable[[int], Progress] = make_progress,
) -> ServingResult:
    """Serve the workload by every server, one journal line each; columns go to ``columns/<id>.npz``.

    ``KeyboardInterrupt`` ends the run in order: the server in work leaves what it has, marked as interrupted.
    """
    lines: list[dict[str, Any]] = []
    servers = list(config.servers())
    try:
        with progress(len(servers)) as display:
            for server in servers:
                display.start(server)
                line = run_server(server, directory=directory, device=device, display=display)
                directory.append(line)
                lines.append(line)
                display.done(server, line)
                if line["status"] == "interrupted":
                    break
    except PabenchError as error:
        with contextlib.suppress(PabenchError, OSError):
            directory.finish(status="interrupted", exit_code=error.exit_code)
        raise
    except KeyboardInterrupt:
        directory.finish(status="interrupted", exit_code=EXIT_INTERRUPTED)
        return ServingResult(lines=tuple(lines), interrupted=True, exit_code=EXIT_INTERRUPTED)
    code = exit_code(lines)
    stopped = code == EXIT_INTERRUPTED
    directory.finish(status="interrupted" if stopped else "finished", exit_code=code)
    return ServingResult(lines=tuple(lines), interrupted=stopped, exit_code=code)


def exit_code(lines: Sequence[Mapping[str, Any]]) -> int:
    """Return 2 when interrupted, 1 when an allocator failed, 5 when nothing was served, else 0."""
    counts = Counter(line["status"] for line in lines)
    if counts["interrupted"]:
        return EXIT_INTERRUPTED
    if counts["failed"]:
        return EXIT_FAILURE
    served = any(line["figures"]["served"] for line in lines if line["status"] == "ok")
    return EXIT_OK if served else EXIT_NOTHING_RAN


def run_server(
    server: Server, *, directory: RunDirectory, device: Callable[[], Device], display: Progress
) -> dict[str, Any]:
    """Serve the workload once and return the journal line."""
    config, shape = server.config, server.config.shape(server.page_size)
    blank: dict[str, Any] = {
        "kind": "serving",
        "id": server.id,
        "status": "ok",
        "reason": None,
        "allocator": server.allocator,
        "scheduler": config.scheduler.name,
        "executor": config.executor,
        "workload": config.workload,
        "page_size": server.page_size,
        "num_pages": shape.num_pages,
        "max_seqs": shape.max_seqs,
    }
    try:
        new = server.maker(device)
        subject: PageAllocator = new(shape)
        executor: Executor = config.clock(server.page_size)
        if config.executor == "kernel":
            subject = JudgedAllocator(subject)
            executor = KernelExecutor(subject, device(), executor, every=config.kernel_steps)
        elif config.check_steps:
            subject = RecordedAllocator(subject)
        watch = Watch(subject, config.check_steps)
        served = serve(
            config.requests,
            subject,
            config.scheduler,
            executor,
            config.limits(shape),
            after_step=watch,
            progress=lambda done: display.note(server, f"{done:,} of {config.requests.num_requests:,}"),
        )
    except Unsupported as error:
        return blank | {"status": "unsupported", "reason": str(error)}
    except Violation as found:
        failure = None
        if isinstance(subject, RecordedAllocator):
            failure = _save(directory, server, failing_history(subject, new), str(found))
        return blank | {"status": "failed", "reason": str(found), "failure": failure}
    line = blank | _measured(server, served, executor.provenance)
    if config.page_model is not None and line["figures"]["sequence_steps"]:
        mean = float(served.steps["context_tokens"].sum()) / line["figures"]["sequence_steps"]
        line["page_model"] = config.page_model(mean)
    if watch.checks:
        line["checked_steps"] = watch.checks
    if isinstance(executor, KernelExecutor):
        line["kernel"] = {
            "launches": executor.launches,
            "sequences": executor.decoded,
            "max_ratio": executor.max_ratio,
        }
    _write_columns(directory.path, server.id, config, served)
    return line


def _measured(server: Server, served: Served, clock: str) -> dict[str, Any]:
    config = server.config
    found = figures(
        config.requests,
        served,
        gpus=config.gpus,
        ttft_limit_s=config.ttft_limit_s,
        tpot_limit_s=config.tpot_limit_s,
    )
    words = {name: "counted" if name in COUNTED else "host" if name in HOST else clock for name in found}
    interrupted = {"status": "interrupted", "reason": "stopped by the user"} if served.interrupted else {}
    return {
        "figures": found,
        "series": series(served.steps, served.samples, config.shape(server.page_size).num_pages),
        "curves": curves(latency_columns(config.requests, served)),
        "skipped": dict(Counter(served.log.skipped.values())),
        "provenance": words,
        **interrupted,
    }


def _write_columns(path: Path, name: str, config: ServingConfig, served: Served) -> None:
    """All columns, under a temporary name until they are whole."""
    requests = config.requests
    columns = {f"step_{key}": value for key, value in served.steps.items()}
    columns |= {f"sample_{key}": value for key, value in served.samples.items()}
    columns |= {f"request_{key}": value for key, value in served.log.columns().items()}
    columns |= {
        "request_arrival_s": requests.arrival_s,
        "request_prompt_tokens": requests.prompt_tokens,
        "request_output_tokens": requests.output_tokens,
    }
    folder = path / COLUMNS_DIR
    try:
        folder.mkdir(exist_ok=True)
        # savez puts its suffix behind a name that lacks it
        temporary = folder / f".{name}.npz"
        save: Any = np.savez
        save(temporary, **columns)
        os.replace(temporary, folder / f"{name}.npz")
    except OSError as error:
        raise EnvironmentRefused(f"cannot write {folder}: {reason(error)}") from error


def _save(
    directory: RunDirectory, server: Server, case: HistoryCase | None, text: str
) -> dict[str, str] | None:
    """Write the history of a failure where ``pabench replay`` finds it."""
    if case is None:
        return None
    name = re.sub(r"[^A-Za-z0-9_]+", "-", f"allocator-invariants-{server.allocator}")
    folder = directory.failure_dir(f"{case.id}-{name}")
    write_case(
        folder,
        check="allocator-invariants",
        subject=server.allocator,
        device="emulated",
        kind="history",
        case=case.to_dict(),
        text=text,
    )
    return {
        "case_id": case.id,
        "text": text,
        "path": str(folder.relative_to(directory.path)),
        "replay": f"pabench replay {folder}",
    }
