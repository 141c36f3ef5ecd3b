# SPDX-License-Identifier: Apache-2.0
"""The host C++ compiler of the emulated device: which one, with which flags, and its errors in one line."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pabench.errors import CompileError, EnvironmentRefused

FLAGS = (
    "-std=c++20",
    "-O2",
    "-ftree-slp-vectorize",
    "-g1",
    "-fPIC",
    "-fno-plt",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-pthread",
    "-Wno-unknown-pragmas",
    "-Wno-psabi",
)
COMPILE_DEADLINE_S = 300
NO_FAULT = re.compile(
    # a program or file speaks; the lines of the source that the log repeats do not begin like that
    r"^(\{standard input\}|LLVM ERROR|[^\s:]+):(?!.*#error).*("
    r"no space left on device|quota exceeded|read-only file system|too many open files|input/output error|"
    r"cannot allocate memory|memory exhausted|out of memory|killed signal|terminated with signal 9|"
    r"resource temporarily unavailable|cannot create temporary file)",
    re.IGNORECASE,
)
"""What a compiler and its helpers say when it was the machine that failed, not the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """A C++ compiler.

    Attributes:
        command: program and fixed arguments.
        version: first line of ``--version``; part of the cache key.
    """

    command: tuple[str, ...]
    version: str


def find_compiler() -> Compiler:
    """Return ``$CXX``, else g++ or clang++ on the path, else the ``ziglang`` package's compiler.

    Raises:
        EnvironmentRefused: none works; the message says what to install.
    """
    return _find(os.environ.get("CXX"), os.environ.get("PATH"))


@functools.lru_cache(maxsize=8)
def _find(wanted: str | None, search_path: str | None) -> Compiler:
    del search_path  # part of the key only
    if wanted:
        try:
            command = tuple(shlex.split(wanted))
        except ValueError as error:
            raise EnvironmentRefused(f"CXX = {wanted!r}: {error}", hint="unset CXX") from None
        if not command or shutil.which(command[0]) is None:
            raise EnvironmentRefused(f"CXX = {wanted!r}: no such compiler", hint="unset CXX or install it")
        return Compiler(command=command, version=_version(command))
    for name in ("g++", "clang++", "c++"):
        if path := shutil.which(name):
            return Compiler(command=(path,), version=_version((path,)))
    if importlib.util.find_spec("ziglang") is not None:
        command = (sys.executable, "-m", "ziglang", "c++")
        return Compiler(command=command, version=_version(command))
    raise EnvironmentRefused(
        "the emulated device needs a C++ compiler and found none",
        hint="install g++ or clang++, or `pip install ziglang`, or set CXX",
    )


def _version(command: tuple[str, ...]) -> str:
    try:
        result = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentRefused(f"C++ compiler {shlex.join(command)} does not run: {error}") from error
    if result.returncode:
        raise EnvironmentRefused(
            f"C++ compiler {shlex.join(command)} --version failed: {result.stderr.strip()}"
        )
    return result.stdout.splitlines()[0] if result.stdout else "unknown"


def compile_shared(compiler: Compiler, arguments: Sequence[str], output: Path, *, what: str) -> None:
    """Compile and link a shared library.

    Args:
        compiler: from ``find_compiler``.
        arguments: sources, include folders and extra flags.
        output: file to write.
        what: name of the source in the error.

    Raises:
        CompileError: with the compiler's first error line, file and line number included.
        EnvironmentRefused: the compiler does not run, or wrote nothing.
    """
    _run(compiler, [*FLAGS, *native_flags(), *arguments, "-shared"], output, what=what)


def compile_object(compiler: Compiler, arguments: Sequence[str], output: Path, *, what: str) -> None:
    """Compile to an object file; otherwise as ``compile_shared``."""
    _run(compiler, [*FLAGS, *native_flags(), *arguments, "-c"], output, what=what)


def _run(compiler: Compiler, arguments: Sequence[str], output: Path, *, what: str) -> None:
    command = [*compiler.command, *arguments, "-o", str(output)]
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMPILE_DEADLINE_S,
            check=False,
            # its messages are read below; without a PATH it would not find its own linker
            env={"PATH": os.defpath, **os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise CompileError(f"{what}: the compiler did not finish within {COMPILE_DEADLINE_S} s") from None
    except OSError as error:
        raise EnvironmentRefused(
            f"C++ compiler {shlex.join(compiler.command)} does not run: {error}"
        ) from None
    if result.returncode:
        why = f"killed by signal {-result.returncode}" if result.returncode < 0 else no_fault(result.stderr)
        if why:
            raise EnvironmentRefused(
                f"{what} cannot be compiled here: {why}", hint="free memory and disk space, and try again"
            )
        raise CompileError(f"{what} does not compile: {first_error(result.stderr)}")
    if not output.is_file() or not output.stat().st_size:
        raise EnvironmentRefused(
            f"C++ compiler {shlex.join(compiler.command)} wrote no output", hint="is CXX a compiler?"
        )


def native_flags() -> tuple[str, ...]:
    """Return the flag that lets the compiler use this processor's vector units."""
    return ("-march=native",)


def no_fault(log: str) -> str | None:
    """Return the line of a compiler log which says that the machine failed, or None."""
    return next((line for line in log.splitlines() if NO_FAULT.match(line)), None)


def first_error(log: str) -> str:
    """Return the first line of a compiler log that states an error."""
    for line in log.splitlines():
        if re.search(r"\b(fatal )?error\b", line):
            return line.strip()
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


@functools.lru_cache(maxsize=1)
def processor_key() -> str:
    """Return what distinguishes this processor for ``-march=native``: cached objects do not move across."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        import platform

        return platform.processor() or platform.machine()
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features", "model name")))
    return "\n".join(sorted(set(lines)))
