# SPDX-License-Identifier: Apache-2.0
"""``pabench kernels --account``: what one turn of each hot loop spends, as text, JSON or CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pabench.cli.text_table import text_table

if TYPE_CHECKING:
    from pabench.kernels.account_goals import Held
    from pabench.kernels.static_table import Compilation, StaticRow

NO_LINES = "no line information: loads are named by their address"


def account_text(
    results: Sequence[Compilation], goals: Sequence[Held], failures: Sequence[str], head: str
) -> str:
    """Return a turn by classes, its bounds, the ``goals``, and ``failures``; ``head`` ends the last line."""
    shown = [
        (result, row)
        for result in results
        for row in result.rows
        if row.account is not None and (row.account.turn_flop or row.account.turn_bytes)
    ]
    parts = []
    if shown:
        parts.append(text_table([_turn(result, row) for result, row in shown]))
        parts.append(text_table([_bounds(result, row) for result, row in shown]))
        parts.append(
            "A turn is the steady way round the hot loop, of one warp; where it loads, that many more.\n"
            "Bounds are clocks of a multiprocessor for a turn of a block, each as if nothing else took\n"
            "time.  Modelled, not measured."
        )
        for result, row in shown:
            if row.account is not None and row.account.inner:
                inner = f"{row.account.inner} of {row.account.instructions} instructions"
                where = f"{row.usage.name}, {result.label}, {result.architecture}"
                parts.append(f"{where}: {inner} are in a loop within the turn, counted for one round")
        if not all(row.account is not None and row.account.has_lines for _, row in shown):
            parts.append(NO_LINES)
    else:
        parts.append("no function has a loop with matrix instructions or asynchronous copies")
    if goals:
        parts.append(text_table([_goal(one) for one in goals]))
    if failures:
        parts.append("\n".join(f"FAILED {text}" for text in failures))
    parts.append(f"{len(shown)} hot loops in {len(results)} compilations, {len(failures)} failures ({head})")
    return "\n\n".join(parts)


def _named(result: Compilation, row: StaticRow) -> dict[str, Any]:
    return {"kernel": row.usage.name, "instance": result.label, "arch": result.architecture}


def _turn(result: Compilation, row: StaticRow) -> dict[str, Any]:
    assert row.account is not None
    from pabench.device.sass import CLASS_NAMES

    account = row.account
    return {
        **_named(result, row),
        "regs": row.usage.registers,
        "turn": account.instructions,
        "loading": account.loading - account.instructions,
        **{name: account.classes.get(name, 0) for name in CLASS_NAMES},
        "a token": None if account.per_token is None else round(account.per_token, 1),
    }


def _bounds(result: Compilation, row: StaticRow) -> dict[str, Any]:
    assert row.account is not None
    account = row.account
    first = account.first_use
    where = None
    if first is not None:
        place = first.load.place
        where = f"{place[0]}:{place[1]}" if place else f"{first.load.address:#x}"
    clocks = {name: account.clocks.get(name) for name in ("issue", "tensor", "shared", "memory")}
    return {
        **_named(result, row),
        **{name: None if value is None else round(value) for name, value in clocks.items()},
        "bound": account.bound,
        "TFLOP/s": None if account.most_tflops is None else round(account.most_tflops),
        "GB/s": None if account.most_gbps is None else round(account.most_gbps),
        "KiB in flight": None if account.flight_bytes is None else account.flight_bytes // 1024,
        "load to use": None if first is None else first.distance,
        "tensor between": None if first is None else first.tensor,
        "load": where,
    }


def _goal(one: Held) -> dict[str, Any]:
    goal = one.goal
    return {
        "kernel": goal.kernel,
        "instance": goal.instance,
        "arch": goal.arch,
        "set": goal.words,
        "has": None if one.value is None else f"{one.value:g}",
        "met": "yes" if one.met else f"no: {goal.missed}" if goal.missed else "no",
    }


def goals_json(goals: Sequence[Held]) -> list[dict[str, Any]]:
    """Return goals beside what the compiled code has, as JSON values."""
    return [{**asdict(one.goal), "value": one.value, "met": one.met} for one in goals]


def account_json(results: Sequence[Compilation]) -> list[dict[str, Any]]:
    """Return all accounts as JSON values."""
    from pabench.kernels.account import account_dict

    return [
        {
            "file": result.file,
            **_named(result, row),
            "registers": row.usage.registers,
            **account_dict(row.account),
        }
        for result in results
        for row in result.rows
        if row.account is not None
    ]
