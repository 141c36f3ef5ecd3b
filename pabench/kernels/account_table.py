# SPDX-License-Identifier: Apache-2.0
"""The table of accounts: its rows, and which are worse than those written down before."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pabench.errors import UsageError
from pabench.kernels.account import account_dict
from pabench.kernels.static_table import Compilation, StaticRow

KEY = ("kernel", "instance", "arch")
LESS_IS_BETTER = ("registers", "spill_bytes", "instructions", "ldmatrix")
MORE_IS_BETTER = ("ctas_per_sm", "tensor_before_use", "flight_bytes_per_sm")
COLUMNS = (
    *KEY,
    "nvrtc",
    *LESS_IS_BETTER,
    "tensor",
    "copies",
    "per_token",
    "load_to_use",
    *MORE_IS_BETTER,
    "bound",
    "most_tflops",
    "most_gbps",
)

Row = dict[str, Any]


def account_rows(results: Iterable[Compilation], nvrtc: str | None) -> list[Row]:
    """Return one row for each function with a loop of matrix instructions or copies, by ``COLUMNS``."""
    return [
        _row(result, row, nvrtc)
        for result in results
        for row in result.rows
        if row.account is not None and (row.account.turn_flop or row.account.turn_bytes)
    ]


def as_csv(rows: Sequence[Row]) -> str:
    """Return the rows as CSV; what is not known is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file that ``as_csv`` wrote.

    Raises:
        UsageError: it cannot be read, or is no such table.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    for number, row in enumerate(rows, start=2):
        if set(row) != set(COLUMNS) or None in row.values():
            raise UsageError(f"{path}, line {number}: must have the columns {','.join(COLUMNS)}")
        for name in (*LESS_IS_BETTER, *MORE_IS_BETTER):
            if row[name] and not row[name].isdecimal():
                raise UsageError(f"{path}, line {number}: {name} {row[name]!r} must be a whole number")
    return rows


def worse(rows: Iterable[Row], before: Iterable[Mapping[str, str]]) -> list[str]:
    """Return, in words, what is worse in ``rows`` than in a table ``before``, by instance and architecture.

    Rows of another build of NVRTC are no measure: builds allot registers differently.
    """
    known = {tuple(row[name] for name in (*KEY, "nvrtc")): row for row in before}
    found = []
    for row in rows:
        old = known.get(tuple(str(row[name]) for name in (*KEY, "nvrtc")))
        if old is None:
            continue
        where = f"{row['kernel']}, {row['instance']}, {row['arch']}"
        for names, sign in ((LESS_IS_BETTER, 1), (MORE_IS_BETTER, -1)):
            for name in names:
                now, then = row[name], old[name]
                if then != "" and (now is None or sign * now > sign * int(then)):
                    said = "unknown" if now is None else now
                    found.append(
                        f"{where}: {name} {said}, {'at most' if sign > 0 else 'at least'} {then} before"
                    )
    return found


def compared(rows: Iterable[Row], before: Iterable[Mapping[str, str]]) -> int:
    """Return how many of ``rows`` a table ``before`` has, of the same build of NVRTC."""
    known = {tuple(row[name] for name in (*KEY, "nvrtc")) for row in before}
    return sum(tuple(str(row[name]) for name in (*KEY, "nvrtc")) in known for row in rows)


def _row(result: Compilation, row: StaticRow, nvrtc: str | None) -> Row:
    assert row.account is not None
    figures = account_dict(row.account)
    classes = figures["classes"]
    rounded = {
        name: None if figures[name] is None else round(figures[name], 1)
        for name in ("per_token", "most_tflops", "most_gbps")
    }
    return {
        "kernel": row.usage.name,
        "instance": result.label,
        "arch": result.architecture,
        "nvrtc": nvrtc,
        "registers": row.usage.registers,
        "spill_bytes": row.usage.spill_bytes,
        "ctas_per_sm": row.occupancy.blocks_per_sm if row.occupancy else None,
        "instructions": figures["instructions"],
        "ldmatrix": classes.get("ldmatrix", 0),
        "tensor": classes.get("tensor", 0),
        "copies": classes.get("copy", 0),
        "load_to_use": figures["load_to_use"],
        "tensor_before_use": figures["tensor_before_use"],
        "flight_bytes_per_sm": figures["flight_bytes_per_sm"],
        "bound": figures["bound"],
        **rounded,
    }
