# SPDX-License-Identifier: Apache-2.0
"""``pabench kernels``: the static table of kernel instances, compiled by NVRTC with no GPU."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pabench.cli.stamp import stamped
from pabench.cli.text_table import text_table
from pabench.console import say
from pabench.errors import EXIT_FAILURE, EXIT_OK, UsageError

if TYPE_CHECKING:
    from pabench.kernels.static_sources import StaticSource
    from pabench.kernels.static_table import Compilation

MACRO = re.compile(r"([A-Za-z_]\w*)(?:=(.*))?", re.ASCII | re.DOTALL)


@click.command()
@click.option(
    "--arch",
    "archs",
    metavar="NAME",
    multiple=True,
    help="Architectures, separated by commas.  [default: sm_80, sm_90a, sm_100a, sm_120]",
)
@click.option(
    "--kernels",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder of kernel sources to use instead of pabench's.",
)
@click.option(
    "--kernel",
    "files",
    metavar="FILE",
    multiple=True,
    help="Compile only this file: a path, or a name in the folder.",
)
@click.option(
    "--define",
    "macros",
    metavar="NAME=VALUE",
    multiple=True,
    help="With --kernel: compile with these macros only.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="With --kernel: threads per block, if pabench does not know them.",
)
@click.option(
    "--shared",
    type=click.IntRange(0),
    metavar="BYTES",
    help="With --kernel and --threads: bytes of dynamic shared memory per block.",
)
@click.option("--instance", "labels", metavar="WORDS", multiple=True, help="Instances with these words only.")
@click.option("--account", is_flag=True, help="Account for one turn of each hot loop, from the disassembly.")
@click.option(
    "--baseline",
    metavar="CSV",
    type=click.Path(path_type=Path),
    help="With --account: fail where a row is worse than in this table.",
)
@click.option("--csv", "as_csv", is_flag=True, help="With --account: print the table that --baseline takes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    archs: tuple[str, ...],
    kernels: Path | None,
    files: tuple[str, ...],
    macros: tuple[str, ...],
    threads: int | None,
    shared: int | None,
    labels: tuple[str, ...],
    account: bool,
    baseline: Path | None,
    as_csv: bool,
    as_json: bool,
) -> int:
    """Compile every kernel instance without a GPU: registers, spills, shared memory, CTAs per SM.

    Fails when an instance does not compile, or spills more registers than its table allows.  --account
    disassembles what is compiled, and takes .cubin and .ptx files of yours too.

    \b
    Examples:
      pabench kernels --arch sm_90a --kernel kv_append.cu
      pabench kernels --kernel my.cu --define HEAD_DIM=128 --threads 256 --json
      pabench kernels --account --arch sm_90a --kernel paged_decode.cu --instance "bfloat16 head_dim 128"
    """
    from pabench.device.nvrtc import ARCHITECTURES, nvrtc_version
    from pabench.kernels.static_table import compile_table

    if not files and (macros or threads is not None or shared is not None):
        raise UsageError("--define, --threads and --shared describe a kernel of yours: name it with --kernel")
    if shared is not None and threads is None:
        raise UsageError("--shared needs --threads: CTAs per SM follow from both")
    names = tuple(dict.fromkeys(name.strip() for arch in archs for name in arch.split(","))) or ARCHITECTURES
    if not account and (baseline is not None or as_csv):
        raise UsageError("--baseline and --csv are of --account: give that too")
    if as_csv and as_json:
        raise UsageError("--csv and --json: print one or the other")
    compiled = [name for name in files if Path(name).suffix in (".cubin", ".ptx")]
    if compiled and not account:
        raise UsageError(f"--kernel {compiled[0]}: nothing to compile; --account takes it")
    default = None if threads is None else (threads, shared or 0)
    sources: tuple[StaticSource, ...] = ()
    if not compiled or len(compiled) < len(files):
        texts = [name for name in files if name not in compiled]
        sources = _with_words(_sources(kernels, texts, macros, threads, shared or 0), labels)
    if account:
        return _account(
            sources, compiled, names if archs or sources else (), default, baseline, as_csv, as_json
        )
    with _progress(sum(source.suits(name) for source in sources for name in names)) as bar:
        results = compile_table(sources, names, finished=lambda: bar.update(1) if bar else None)
    passed = all(result.passed for result in results)
    if as_json:
        say(json.dumps(stamped("kernels", _as_json(results, names, nvrtc_version(), passed)), indent=2))
    else:
        say(_as_text(results, nvrtc_version()))
    return EXIT_OK if passed else EXIT_FAILURE


def _account(
    sources: tuple[StaticSource, ...],
    compiled: Sequence[str],
    names: Sequence[str],
    default: tuple[int, int] | None,
    baseline: Path | None,
    as_csv: bool,
    as_json: bool,
) -> int:
    from pabench.cli.kernels_account import account_json, account_text, goals_json
    from pabench.device.nvrtc import nvrtc_version
    from pabench.kernels import account_table
    from pabench.kernels.account_binary import binary_account
    from pabench.kernels.account_goals import held, read_goals
    from pabench.kernels.static_table import compile_table
    from pabench.resources import resource_dir

    before = None if baseline is None else account_table.read_table(baseline)
    results: list[Compilation] = []
    for file in compiled:
        for architecture in (names or (None,)) if file.endswith(".ptx") else (None,):
            results.append(binary_account(Path(file), default=default, architecture=architecture))
    version = None
    if sources:
        version = nvrtc_version()
        with _progress(sum(source.suits(name) for source in sources for name in names)) as bar:
            done = lambda: bar.update(1) if bar else None  # noqa: E731
            results += compile_table(sources, names, accounted=True, finished=done)
    rows = account_table.account_rows(results, version)
    goals = held(read_goals(resource_dir("suites") / "kernels" / "goals.toml"), rows)
    wrong = [result.error for result in results if result.error]
    wrong += [one.failure for one in goals if one.failure]
    if before is not None:
        wrong += account_table.worse(rows, before)
    if as_csv:
        say(account_table.as_csv(rows).rstrip("\n"))
    elif as_json:
        told = {"accounts": account_json(results), "goals": goals_json(goals), "failures": wrong}
        say(json.dumps({"nvrtc": version, **told}, indent=2))
    else:
        head = "as compiled" if version is None else f"NVRTC {version}"
        if before is not None:
            head += f"; {account_table.compared(rows, before)} compared with {baseline}"
        say(account_text(results, goals, wrong, head))
    if as_csv:
        for text in wrong:
            click.echo(f"FAILED {text}", err=True)
    return EXIT_FAILURE if wrong else EXIT_OK


def _with_words(sources: tuple[StaticSource, ...], labels: Sequence[str]) -> tuple[StaticSource, ...]:
    kept = tuple(source for source in sources if all(words in source.label for words in labels))
    if sources and not kept:
        raise UsageError(f"--instance {' '.join(labels)!r}: no instance has these words")
    return kept


def _progress(count: int) -> AbstractContextManager[Any]:
    # where nobody watches, click would still print the label
    watched = sys.stderr.isatty()
    return click.progressbar(length=count, label="compiling", file=sys.stderr) if watched else nullcontext()


def _sources(
    kernels: Path | None, files: Sequence[str], macros: Sequence[str], threads: int | None, shared: int
) -> tuple[StaticSource, ...]:
    from pabench.kernels.static_sources import file_sources, folder_sources
    from pabench.resources import resource_dir

    folder = kernels or resource_dir("kernels_cuda")
    if not files:
        return folder_sources(folder)
    if not folder.is_dir():
        raise UsageError(f"--kernels {folder}: no such folder")
    defines = dict(map(_macro, macros)) if macros else None
    found: list[StaticSource] = []
    for file in files:
        path = Path(file) if Path(file).exists() or not (folder / file).is_file() else folder / file
        found += file_sources(path, include_dir=folder, defines=defines)
    if threads is None:
        return tuple(found)
    return tuple(replace(source, default=(threads, shared)) for source in found)


def _macro(text: str) -> tuple[str, str]:
    parts = MACRO.fullmatch(text)
    if parts is None:
        raise UsageError(f"--define {text!r}: must read like NAME=VALUE")
    return parts[1], "1" if parts[2] is None else parts[2]


def _as_json(
    results: Sequence[Compilation], architectures: Sequence[str], nvrtc: str, passed: bool
) -> dict[str, Any]:
    from pabench.kernels.static_table import row_dict

    return {
        "nvrtc": nvrtc,
        "architectures": list(architectures),
        "passed": passed,
        "rows": [
            {"file": result.file, **row_dict(result, row), "spills": row.spills}
            for result in results
            for row in result.rows
        ],
        "warnings": [{**_where(result), "text": text} for result in results for text in result.warnings],
        "errors": [{**_where(result), "text": result.error} for result in results if result.error],
    }


def _where(result: Compilation) -> dict[str, str]:
    return {"file": result.file, "instance": result.label, "arch": result.architecture}


SHORT = {
    "registers": "regs",
    "spill_store_bytes": "spill st",
    "spill_load_bytes": "ld",
    "stack_bytes": "stack",
    "static_shared_bytes": "shared",
    "dynamic_shared_bytes": "+dyn",
    "barriers": "bars",
    "ctas_per_sm": "CTAs/SM",
    "limited_by": "limited by",
}


def _as_text(results: Sequence[Compilation], nvrtc: str) -> str:
    from pabench.kernels.static_table import row_dict

    shown = []
    for result in results:
        for row in result.rows:
            figures = row_dict(result, row)
            share = figures.pop("warps_share")
            del figures["allowed_spill_bytes"]
            named = {SHORT.get(name, name): value for name, value in figures.items()}
            shown.append(named | {"warps %": None if share is None else round(100 * share)})
    parts = [text_table(shown)] if shown else []
    if len(shown) > 1:
        parts.append(text_table(_summary(results)))
    told: Counter[str] = Counter()
    for result in results:
        told.update(f"{result.file}: {text}" for text in result.warnings)
    parts += ["\n".join(f"{text}{_times(count)}" for text, count in told.items())] if told else []
    wrong = Counter(f"FAILED {result.error}" for result in results if result.error)
    for result in results:
        for row in result.rows:
            if row.spills:
                usage = row.usage
                spilled = f"{usage.spill_store_bytes} bytes stored, {usage.spill_load_bytes} loaded a thread"
                wrong[f"FAILED {usage.name}, {result.label}, {result.architecture}: spills {spilled}"] += 1
    parts += ["\n".join(f"{text}{_times(count)}" for text, count in wrong.items())] if wrong else []
    compiled = sum(bool(result.rows) for result in results)
    parts.append(
        f"{compiled} of {len(results)} compilations, {len(shown)} functions, {sum(told.values())} warnings, "
        f"{sum(wrong.values())} failures (NVRTC {nvrtc})"
    )
    return "\n\n".join(parts)


def _summary(results: Sequence[Compilation]) -> list[dict[str, Any]]:
    """One line a kernel and architecture over all its instances: what a terminal shows last."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for result in results:
        for row in result.rows:
            groups.setdefault((row.usage.name, result.architecture), []).append(row)
    return [
        {
            "kernel": name,
            "arch": architecture,
            "instances": len(rows),
            "regs": _span([row.usage.registers for row in rows]),
            "spill": _span([row.usage.spill_bytes for row in rows]),
            "CTAs/SM": _span([row.occupancy.blocks_per_sm for row in rows if row.occupancy]),
        }
        for (name, architecture), rows in groups.items()
    ]


def _span(values: Sequence[int]) -> str:
    if not values:
        return "-"
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}-{high}"


def _times(count: int) -> str:
    return "" if count == 1 else f"  ({count} times)"
