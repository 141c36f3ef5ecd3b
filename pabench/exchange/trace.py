# SPDX-License-Identifier: Apache-2.0
"""A Trace of FlashInfer Trace: what became of a solution on a workload, and the rules that a line must keep.

Source: github.com/flashinfer-ai/flashinfer-bench, docs/flashinfer-trace/trace.mdx and workload.mdx.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pabench.errors import InvalidCase
from pabench.exchange.json_files import field
from pabench.problem.checks import whole_number

PASSED, WRONG = "PASSED", "INCORRECT_NUMERICAL"
STATUSES = (
    *(PASSED, "INCORRECT_SHAPE", WRONG, "INCORRECT_DTYPE"),
    *("RUNTIME_ERROR", "COMPILE_ERROR", "TIMEOUT"),
)
ERRORS = ("max_relative_error", "max_absolute_error")
TIMES = ("latency_ms", "reference_latency_ms", "speedup_factor")
NO_NUMBER = "NaN"
"""As the schema writes a number that is none."""


def check_trace(line: Any, where: str = "trace") -> None:
    """Raise unless ``line`` is a Trace by the documented schema.

    Raises:
        InvalidCase: names the field and the rule.
    """
    if not isinstance(line, dict):
        raise InvalidCase(where, line, "must be an object")
    field(where, line, "definition", str)
    _check_workload(f"{where}: workload", field(where, line, "workload", dict))
    solution = field(where, line, "solution", str, default=None)
    evaluation = field(where, line, "evaluation", dict, default=None)
    if (solution is None) != (evaluation is None):
        raise InvalidCase(f"{where}: evaluation", evaluation, "must be there with a solution, and only then")
    if evaluation is not None:
        _check_evaluation(f"{where}: evaluation", evaluation)


def _check_workload(where: str, given: dict[str, Any]) -> None:
    field(where, given, "uuid", str)
    for name, size in field(where, given, "axes", dict).items():
        whole_number(f"{where}: axes.{name}", size, low=0)
    for name, source in field(where, given, "inputs", dict).items():
        here = f"{where}: inputs.{name}"
        kind = source.get("type") if isinstance(source, dict) else None
        if kind == "scalar":
            if not isinstance(source.get("value"), int | float):
                raise InvalidCase(f"{here}.value", source.get("value"), "must be a number or a truth value")
        elif kind == "safetensors":
            field(here, source, "path", str)
            field(here, source, "tensor_key", str)
        elif kind != "random":
            raise InvalidCase(f"{here}.type", kind, "must be random, scalar or safetensors")


def _check_evaluation(where: str, given: dict[str, Any]) -> None:
    status = given.get("status")
    if status not in STATUSES:
        raise InvalidCase(f"{where}.status", status, f"must be one of {', '.join(STATUSES)}")
    environment = field(where, given, "environment", dict)
    field(f"{where}.environment", environment, "hardware", str)
    libs = field(f"{where}.environment", environment, "libs", dict, default={})
    if not all(isinstance(version, str) for version in libs.values()):
        raise InvalidCase(f"{where}.environment.libs", libs, "must be names and versions")
    field(where, given, "timestamp", str)
    if not isinstance(given.get("log", ""), str):
        raise InvalidCase(f"{where}.log", given["log"], "must be text")
    for name, numbers, with_status in (
        ("correctness", ERRORS, (PASSED, WRONG)),
        ("performance", TIMES, (PASSED,)),
    ):
        found = given.get(name)
        if (found is not None) != (status in with_status):
            rule = f"must be there with {' and '.join(with_status)}, and only then"
            raise InvalidCase(f"{where}.{name}", found, rule)
        for number in numbers if found is not None else ():
            _check_number(f"{where}.{name}.{number}", found, number)


def _check_number(where: str, found: Any, name: str) -> None:
    if not isinstance(found, Mapping) or name not in found:
        raise InvalidCase(where, found, "is missing")
    value = found[name]
    if value in (NO_NUMBER, "Infinity"):
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value >= 0 or math.isnan(value)):
        raise InvalidCase(where, value, "must be a number of at least 0, or NaN")
