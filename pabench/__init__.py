"""Benchmark and conformance suite for paged attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd

    from pabench.trial.result import CheckResult

__version__ = "0.1.0"


def check(
    function: Callable[..., Any],
    *,
    profile: str = "quick",
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
            a torch operator, or with ``arrays="torch"``; CuPy
            likewise.  A class with ``plan`` and ``run`` is a backend.
        profile: ``quick``, ``default`` or ``deep``.
        only: ids of checks, as ``pabench conformance -k`` takes them.
        seed: of all draws.
        device: see ``pabench list devices``; numpy functions need none.
        out: folder for the run; a temporary one that stays when it is None.
        deadline_s: for one check.
        declared: what attributes of the function may declare too: ``dtypes``, ``features``, ``masks``,
            ``formats``, ``prefill``, ``append``, ``layout``, ``lse``, ``arrays`` and the rest of
            docs/backends.md; ``arithmetic`` is its ``ComputeProfile``.

    Returns:
        True when right; ``causes`` says what is wrong, ``to_frame()`` has a row a check.

    Raises:
        UsageError: no callable, or a declaration or option that is refused.
    """
    from pabench.trial.check import check as check_callable

    return check_callable(
        function,
        profile=profile,
        only=only,
        seed=seed,
        device=device,
        out=out,
        deadline_s=deadline_s,
        **declared,
    )


def read(*runs: str | Path) -> pd.DataFrame:
    """Read run directories into one pandas DataFrame, a row a record; see ``analysis/frame.py``."""
    # pandas is heavy, and most of what imports pabench has no use for it
    from pabench.analysis.frame import read as read_frame

    return read_frame(*runs)


def compare(base: str | Path, new: str | Path, *, threshold: float = 0.02) -> pd.DataFrame:
    """Compare two run directories, a row a verdict or figure; see ``comparison/compare.py``.

    Args:
        base: the run that is held to.
        new: the run that is judged.
        threshold: relative difference below which times count as the same.

    Returns:
        Columns ``part, label, subject, device, figure, base, new, ratio, low, high, change, reason,
        accepted, id``; ``attrs["exit_code"]`` is that of ``pabench compare``.
    """
    from pabench.comparison.compare import compare as compare_paths

    return compare_paths(base, new, threshold=threshold)
