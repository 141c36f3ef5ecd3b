# SPDX-License-Identifier: Apache-2.0
"""Judges a callable: the suite runs in a copy of this process, which a crash or a hang of it cannot harm."""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pabench.checks.faults import faults_of
from pabench.cli.main import run
from pabench.errors import EnvironmentRefused, UsageError, reason
from pabench.run.read import JOURNAL, RUN_FILE, read_run
from pabench.trial.callables import name_of, place_of, registered
from pabench.trial.result import CheckResult

POLL_S = 0.05
GRACE_S = 10.0
"""For the run to be closed after a Ctrl-C."""
OUTPUT = "output.txt"
TEMPORARY = "pabench-check-"


def check(
    function: Callable[..., Any],
    *,
    profile: str = "trial",
    only: str | None = None,
    seed: int = 0,
    device: str = "auto",
    out: str | Path | None = None,
    deadline_s: float = 120.0,
    **declared: Any,
) -> CheckResult:
    """Judge a decode function of this program against the dense float64 oracle, with generated cases.

    ``function(q, k_cache, v_cache, block_table, kv_lens, sm_scale)`` returns ``out`` or ``(out, lse)``;
    more parameters (``window``, ``soft_cap``, ``qo_indptr``, ...) declare more, docs/backends.md has all.
    It is called in a copy of this process: a crash or a hang is a verdict.
    The copy is also the judge's; to have the judge apart from a kernel that you do not trust, put the kernel
    in a file and use ``pabench conformance --backend FILE.py:NAME``.

    Args:
        function: over numpy arrays; over torch tensors when its first parameter is annotated so, when it is
            a torch operator, or with ``arrays="torch"``; CuPy likewise.
            A class with ``plan`` and ``run`` is a backend.
        profile: ``trial``, ``quick``, ``default`` or ``deep``, the harder the longer.
        only: ids of checks, as ``pabench conformance -k`` takes them.
        seed: of all draws.
        device: see ``pabench list devices``; numpy functions need none.
        out: folder for the run.  With None it is a temporary one, which stays where it holds failing cases,
            named in the verdict, and goes with the result where it holds none.
        deadline_s: for one check.
        declared: what attributes of the function may declare too: ``dtypes``, ``features``, ``masks``,
            ``formats``, ``prefill``, ``append``, ``layout``, ``lse``, ``arrays`` and the rest of
            docs/backends.md; ``arithmetic`` is its ``NumericsProfile``.

    Returns:
        True when right; ``causes`` says what is wrong, ``to_frame()`` has a row a check.

    Raises:
        UsageError: no callable, or a declaration or option that is refused.
    """
    if not deadline_s > 0:
        raise UsageError(f"deadline_s = {deadline_s}: must be above 0")
    words = ["conformance", "--profile", profile, "--seed", str(seed), "--device", device, "--in-process"]
    if only is not None:
        words += ["-k", only]
    if out is not None:
        return _judged(function, declared, words, Path(out), deadline_s)
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY))
    try:
        result = _judged(function, declared, words, folder, deadline_s)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if not result.failures:
        weakref.finalize(result, _remove, folder, os.getpid())
    return result


def _judged(
    function: Callable[..., Any],
    declared: Mapping[str, Any],
    words: list[str],
    folder: Path,
    deadline_s: float,
) -> CheckResult:
    """Run the suite in a fork, with its run directory and what it prints in ``folder``."""
    run_folder = folder / "run"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        output = (folder / OUTPUT).open("wb")
    except OSError as error:
        raise EnvironmentRefused(f"cannot write {folder}: {reason(error)}") from error
    with output, registered(function, declared) as place:
        words = [*words, "--out", str(run_folder), "--backend", place]
        code, ended = _apart(words, output.fileno(), run_folder, deadline_s)
    printed = (
        (folder / OUTPUT).read_text(encoding="utf-8", errors="replace").replace(place, name_of(function))
    )
    there = (run_folder / RUN_FILE).is_file()
    records = read_run(run_folder).records if there else ()
    faults = faults_of([{**record.flat(), "subject": name_of(function)} for record in records])
    if not there and not ended:
        # a declaration, an option or this machine was refused before any check
        raise UsageError(
            printed.strip().splitlines()[-1].removeprefix("pabench: ") if printed.strip() else "refused"
        )
    return CheckResult(
        subject=name_of(function),
        place=place_of(function),
        exit_code=code,
        ended=ended,
        causes=faults,
        records=records,
        run=run_folder,
        output=printed,
    )


def _remove(folder: Path, owner: int) -> None:
    """Remove the folder of a result that is gone; a fork of its process has a copy and leaves it."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _apart(words: list[str], output: int, folder: Path, deadline_s: float) -> tuple[int, str]:
    """Run a command line in a fork of this process; return its exit code, and what ended it early."""
    with warnings.catch_warnings():
        # the fork runs the suite alone, whatever threads there are here
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _child(words, output)
    seen, since = -1, time.monotonic()
    try:
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            size = _size(folder / JOURNAL)
            if size != seen:
                seen, since = size, time.monotonic()
            if time.monotonic() - since > deadline_s:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return 1, f"hung: no check ended within {deadline_s:g} s"
            time.sleep(POLL_S)
    except BaseException:
        _end(child)
        raise
    if os.WIFSIGNALED(status):
        return 1, f"its process was ended by {signal.Signals(os.WTERMSIG(status)).name}"
    return os.WEXITSTATUS(status), ""


def _child(words: list[str], output: int) -> None:
    """Never returns: what the parent has open, and its exit handlers, are the parent's."""
    code = 3
    try:
        os.setsid()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        # a notebook prints to its page, not to a descriptor
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        if faulthandler.is_enabled():
            faulthandler.enable(sys.stderr)
        if (torch := sys.modules.get("torch")) is not None:
            # its threads did not come along
            torch.set_num_threads(1)
        code = run(words)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _end(child: int) -> None:
    """End the fork, closing its run where it still can."""
    for number, wait_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        try:
            os.killpg(child, number)
        except ProcessLookupError:
            return
        until = time.monotonic() + wait_s
        while time.monotonic() < until:
            if os.waitpid(child, os.WNOHANG)[0]:
                return
            time.sleep(POLL_S)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
