"""The shape of ``run.json`` and of a journal line, version 1.

A field that is listed must have its type when it is there; required ones must be there.  Fields that are not
listed are kept as they are, so that a writer may add some without a new version.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pabench.errors import UsageError

SCHEMA = 1
RUN_KINDS = ("sweep", "conformance", "serving", "stress", "model")
RUN_STATES = ("running", "finished", "interrupted")
CELL_STATES = ("ok", "failed", "unsupported", "crashed")
STRESS_STATES = ("ok", "timeout", "failed", "unsupported", "crashed")
CHECK_STATES = ("passed", "deviates", "failed", "unsupported", "crashed", "not-run")
MODEL_STATES = ("ok", "failed", "inconclusive")
SERVING_STATES = ("ok", "failed", "unsupported", "interrupted")
PROVENANCE_WORDS = ("measured", "counted", "modelled", "host")
NON_FINITE = ("inf", "-inf", "nan")

Rule = tuple[str, Callable[[Any], bool]]


def _whole(low: int | None = 0) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and (low is None or v >= low)


def _number(value: Any) -> bool:
    return value in NON_FINITE if isinstance(value, str) else _is_number(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _words(names: tuple[str, ...]) -> Rule:
    return f"one of {', '.join(names)}", lambda value: isinstance(value, str) and value in names


NAME: Rule = ("a non-empty text", _name)
TEXT: Rule = ("a text", lambda v: isinstance(v, str))
FLAG: Rule = ("true or false", lambda v: isinstance(v, bool))
COUNT: Rule = ("a whole number >= 0", _whole())
POSITIVE: Rule = ("a whole number >= 1", _whole(1))
CODE: Rule = ("a whole number", _whole(None))
NUMBER: Rule = ("a number", _number)
LIST: Rule = ("a list", lambda v: isinstance(v, list))
OBJECT: Rule = ("an object", lambda v: isinstance(v, dict))
SAMPLES: Rule = ("a list of numbers", lambda v: isinstance(v, list) and all(map(_is_number, v)))
WORDS: Rule = (
    f"an object of figure to one of {', '.join(PROVENANCE_WORDS)}",
    lambda v: isinstance(v, dict) and all(word in PROVENANCE_WORDS for word in v.values()),
)
WHEN: Rule = (
    "an ISO 8601 time",
    lambda v: isinstance(v, str) and re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d", v) is not None,
)
EXACT: Rule = (
    "an object of texts",
    lambda v: isinstance(v, dict) and all(isinstance(t, str) for t in v.values()),
)

RUN_REQUIRED: dict[str, Rule] = {
    "kind": _words(RUN_KINDS),
    "status": _words(RUN_STATES),
    "command": TEXT,
    "started": WHEN,
    "provenance": OBJECT,
    "config": OBJECT,
}
RUN_OPTIONAL: dict[str, Rule] = {"exit_code": CODE, "finished": WHEN, "not_run": COUNT, "hardware": OBJECT}

CELL_REQUIRED: dict[str, Rule] = {
    "id": NAME,
    "status": _words(CELL_STATES),
    "backend": NAME,
    "device": NAME,
    "page_size": POSITIVE,
    "lengths": NAME,
    "batch": COUNT,
}
CELL_OPTIONAL: dict[str, Rule] = {
    **dict.fromkeys(
        ("reason", "heads", "dtype", "kv_layout", "modelled_gpu", "modelled_bound", "counted_bound"), TEXT
    ),
    **dict.fromkeys(("seed", "head_dim", "num_pages", "slots", "tokens", "waste_tokens"), COUNT),
    **dict.fromkeys(("block_table_bytes", "csr_table_bytes", "kv_bytes", "run_token_heads"), COUNT),
    **dict.fromkeys(("internal_fragmentation", "contiguous_fragmentation", "efficiency_gain"), NUMBER),
    **dict.fromkeys(("modelled_ns", "modelled_tokens_per_s"), NUMBER),
    **dict.fromkeys(("expected_floor_ns", "predicted_ns", "floor_ns"), NUMBER),
    **dict.fromkeys(("achieved_gbps", "read_fraction", "floor_fraction"), NUMBER),
    **dict.fromkeys(("dram_bytes",), COUNT),
    **dict.fromkeys(("timing",), OBJECT),
    "flags": LIST,
    "model": NAME,
    **dict.fromkeys(("counted_kv_bytes", "closed_form_kv_bytes", "distinct_sectors"), COUNT),
    **dict.fromkeys(("counted_load_sectors", "counted_store_sectors"), COUNT),
    **dict.fromkeys(("wavefronts", "bank_conflicts", "page_table_reads"), COUNT),
    **dict.fromkeys(("sectors_per_request", "counted_modelled_ns", "closed_form_modelled_ns"), NUMBER),
    **dict.fromkeys(("plan_ns", "run_ns"), SAMPLES),
    "interleaved": FLAG,
    "check": OBJECT,
    "exact": EXACT,
    "provenance": WORDS,
}
CELL_CHECK: dict[str, Rule] = {
    "passed": FLAG,
    "max_ratio": NUMBER,
    "text": TEXT,
    "case_id": TEXT,
    "tokens": COUNT,
    "path": TEXT,
    "replay": TEXT,
}

CHECK_REQUIRED: dict[str, Rule] = {
    "id": NAME,
    "subject": NAME,
    "device": TEXT,
    "check": NAME,
    "status": _words(CHECK_STATES),
}
CHECK_OPTIONAL: dict[str, Rule] = {
    "subject_kind": NAME,
    "about": TEXT,
    **dict.fromkeys(("reason", "version", "mode"), TEXT),
    **dict.fromkeys(("cases", "operations"), COUNT),
    "max_ratio": NUMBER,
    "duration_s": NUMBER,
    "failure": OBJECT,
    "findings": LIST,
    "deviations": LIST,
}
CHECK_FAILURE: dict[str, Rule] = dict.fromkeys(("case_id", "text", "path", "replay"), TEXT)

STRESS_REQUIRED: dict[str, Rule] = {
    **dict.fromkeys(("id", "subject", "check", "scenario"), NAME),
    "device": TEXT,
    "status": _words(STRESS_STATES),
}
STRESS_OPTIONAL: dict[str, Rule] = {
    "reason": TEXT,
    **dict.fromkeys(("size", "num_pages", "page_size", "seed", "rounds"), COUNT),
    **dict.fromkeys(("requests", "served", "refused"), COUNT),
    **dict.fromkeys(("make_first_ns", "take_first_ns", "give_first_ns", "refusal_first_ns"), COUNT),
    **dict.fromkeys(("take_ns", "give_ns", "refusal_ns"), SAMPLES),
    **dict.fromkeys(("occupancy", "spread", "scattered", "utilisation"), SAMPLES),
    "provenance": WORDS,
}

SERVING_REQUIRED: dict[str, Rule] = {
    "id": NAME,
    "status": _words(SERVING_STATES),
    "allocator": NAME,
    "scheduler": NAME,
    "executor": NAME,
    "workload": NAME,
    "page_size": POSITIVE,
    "num_pages": POSITIVE,
}
SERVING_OPTIONAL: dict[str, Rule] = {
    "reason": TEXT,
    "figures": OBJECT,
    "series": OBJECT,
    "curves": OBJECT,
    "skipped": OBJECT,
    "failure": OBJECT,
    "provenance": WORDS,
}

MODEL_REQUIRED: dict[str, Rule] = {
    **dict.fromkeys(("id", "model", "subject", "allocator", "dtype"), NAME),
    "device": TEXT,
    "status": _words(MODEL_STATES),
    "page_size": POSITIVE,
    **dict.fromkeys(("ratios", "prompts", "answers", "steps"), LIST),
}
MODEL_OPTIONAL: dict[str, Rule] = {
    **dict.fromkeys(("reason", "preemption"), TEXT),
    **dict.fromkeys(("layer", "position", "outputs", "hits", "preemptions", "copies"), COUNT),
    **dict.fromkeys(("margin", "error", "noise"), NUMBER),
    "step_ns": SAMPLES,
    "provenance": WORDS,
}

LINES = {
    "cell": (CELL_REQUIRED, CELL_OPTIONAL, ("check", CELL_CHECK)),
    "check": (CHECK_REQUIRED, CHECK_OPTIONAL, ("failure", CHECK_FAILURE)),
    "serving": (SERVING_REQUIRED, SERVING_OPTIONAL, ("failure", CHECK_FAILURE)),
    "stress": (STRESS_REQUIRED, STRESS_OPTIONAL, ("check", {})),
    "model": (MODEL_REQUIRED, MODEL_OPTIONAL, ("check", {})),
}


def validate_run(data: Any, where: str) -> dict[str, Any]:
    """Return ``data`` when it is a version 1 ``run.json``; ``where`` opens the message of the error."""
    if not isinstance(data, dict):
        raise UsageError(f"{where}: must be a JSON object")
    if data.get("schema") != SCHEMA or isinstance(data.get("schema"), bool):
        raise UsageError(f"{where}: schema = {_show(data.get('schema'))}: this version reads schema {SCHEMA}")
    _fields(data, RUN_REQUIRED, RUN_OPTIONAL, where)
    return data


def validate_line(data: Any, where: str) -> dict[str, Any]:
    """Return ``data`` when it is a journal line of a known kind; ``where`` opens the message of the error."""
    if not isinstance(data, dict):
        raise UsageError(f"{where}: must be a JSON object")
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in LINES:
        raise UsageError(f"{where}: kind = {_show(kind)}: must be one of {', '.join(LINES)}")
    required, optional, (inner, rules) = LINES[kind]
    _fields(data, required, optional, where)
    if isinstance(data.get(inner), dict):
        _fields(data[inner], {}, rules, where, prefix=f"{inner}.")
    return data


def _fields(
    data: Mapping[str, Any],
    required: Mapping[str, Rule],
    optional: Mapping[str, Rule],
    where: str,
    *,
    prefix: str = "",
) -> None:
    for name, (rule, holds) in required.items():
        if name not in data:
            raise UsageError(f"{where}: field {prefix}{name} is missing")
        if not holds(data[name]):
            raise UsageError(f"{where}: {prefix}{name} = {_show(data[name])}: must be {rule}")
    for name, (rule, holds) in optional.items():
        if data.get(name) is not None and not holds(data[name]):
            raise UsageError(f"{where}: {prefix}{name} = {_show(data[name])}: must be {rule} or null")


def _show(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
