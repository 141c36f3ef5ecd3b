# SPDX-License-Identifier: Apache-2.0
"""The fields that the records of each activity have, as ``Record.flat`` puts them side by side.

A field that is listed must have its type when it is there; required ones must be there.  Fields that are not
listed are kept as they are, so that a writer may add some without a new version.
"""

from __future__ import annotations

from pabench.run.rules import (
    ANSWERS,
    COUNT,
    COUNTS,
    CURVES,
    EXACT,
    FIGURES,
    FLAG,
    KERNEL,
    LIST,
    NAME,
    NUMBER,
    OBJECT,
    PAGE_MODEL,
    POSITIVE,
    PRIORITIES,
    PROMPTS,
    RATIOS,
    SAMPLES,
    SERIES,
    STEPS,
    TEXT,
    TEXTS,
    WORDS,
    Rule,
)

CELL_REQUIRED: dict[str, Rule] = {
    "id": NAME,
    "backend": NAME,
    "device": NAME,
    "page_size": POSITIVE,
    "lengths": NAME,
    "batch": COUNT,
}
CELL_OPTIONAL: dict[str, Rule] = {
    **dict.fromkeys(("reason", "heads", "dtype", "kv_layout", "l2"), TEXT),
    **dict.fromkeys(("modelled_gpu", "modelled_bound", "counted_bound"), TEXT),
    **dict.fromkeys(("seed", "head_dim", "num_pages", "slots", "tokens", "waste_tokens"), COUNT),
    **dict.fromkeys(("block_table_bytes", "csr_table_bytes", "kv_bytes", "run_token_heads"), COUNT),
    **dict.fromkeys(("internal_fragmentation", "contiguous_fragmentation", "efficiency_gain"), NUMBER),
    **dict.fromkeys(("modelled_ns", "modelled_tokens_per_s"), NUMBER),
    **dict.fromkeys(("expected_floor_ns", "predicted_ns", "floor_ns"), NUMBER),
    **dict.fromkeys(("achieved_gbps", "read_fraction", "floor_fraction"), NUMBER),
    **dict.fromkeys(("dram_bytes",), COUNT),
    **dict.fromkeys(("timing",), OBJECT),
    "flags": TEXTS,
    **dict.fromkeys(("model", "item"), NAME),
    **dict.fromkeys(("replicate", "q_len", "shared_pages"), POSITIVE),
    "kv_dtype": NAME,
    "replicates": LIST,
    **dict.fromkeys(("counted_kv_bytes", "closed_form_kv_bytes", "distinct_sectors"), COUNT),
    **dict.fromkeys(("counted_load_sectors", "counted_store_sectors"), COUNT),
    **dict.fromkeys(("wavefronts", "bank_conflicts", "page_table_reads"), COUNT),
    **dict.fromkeys(("sectors_per_request", "counted_modelled_ns", "closed_form_modelled_ns"), NUMBER),
    **dict.fromkeys(("plan_ns", "prepare_ns", "run_ns", "run_cycles"), SAMPLES),
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

OPERATION_REQUIRED: dict[str, Rule] = {
    **dict.fromkeys(("id", "device", "operation"), NAME),
    "size": POSITIVE,
}
OPERATION_OPTIONAL: dict[str, Rule] = {
    "reason": TEXT,
    "item": NAME,
    "replicate": POSITIVE,
    "replicates": LIST,
    **dict.fromkeys(("moved_bytes", "counted_size", "counted_load_sectors", "counted_store_sectors"), COUNT),
    **dict.fromkeys(("distinct_sectors", "wavefronts", "bank_conflicts"), COUNT),
    **dict.fromkeys(("sectors_per_request", "expected_floor_ns", "predicted_ns"), NUMBER),
    **dict.fromkeys(("achieved_gbps", "copy_fraction"), NUMBER),
    "run_ns": SAMPLES,
    "timing": OBJECT,
    "provenance": WORDS,
}

CHECK_REQUIRED: dict[str, Rule] = {
    "id": NAME,
    "subject": NAME,
    "device": TEXT,
    "check": NAME,
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
    "missing_badges": EXACT,
    **dict.fromkeys(("space", "refused"), OBJECT),
    "causes": EXACT,
}
CHECK_FAILURE: dict[str, Rule] = dict.fromkeys(("case_id", "text", "path", "replay"), TEXT)

STRESS_REQUIRED: dict[str, Rule] = {
    **dict.fromkeys(("id", "subject", "check", "scenario"), NAME),
    "device": TEXT,
}
STRESS_OPTIONAL: dict[str, Rule] = {
    "reason": TEXT,
    **dict.fromkeys(("size", "num_pages", "page_size", "seed", "rounds"), COUNT),
    **dict.fromkeys(("requests", "served", "refused"), COUNT),
    **dict.fromkeys(("make_first_ns", "take_first_ns", "give_first_ns", "refusal_first_ns"), COUNT),
    **dict.fromkeys(("take_ns", "give_ns", "refusal_ns"), SAMPLES),
    **dict.fromkeys(("occupancy", "spread", "scattered", "run_pages", "copies", "utilisation"), SAMPLES),
    "provenance": WORDS,
}

SERVING_REQUIRED: dict[str, Rule] = {
    "id": NAME,
    "allocator": NAME,
    "scheduler": NAME,
    "executor": NAME,
    "workload": NAME,
    "page_size": POSITIVE,
    "num_pages": POSITIVE,
}
SERVING_OPTIONAL: dict[str, Rule] = {
    "reason": TEXT,
    "figures": FIGURES,
    "series": SERIES,
    "curves": CURVES,
    "skip_reasons": COUNTS,
    "priorities": PRIORITIES,
    "page_model": PAGE_MODEL,
    "kernel": KERNEL,
    "failure": OBJECT,
    "checked_steps": COUNT,
    "provenance": WORDS,
}

MODEL_REQUIRED: dict[str, Rule] = {
    **dict.fromkeys(("id", "model", "subject", "allocator", "dtype"), NAME),
    "device": TEXT,
    "page_size": POSITIVE,
    "ratios": RATIOS,
    "prompts": PROMPTS,
    "answers": ANSWERS,
    "steps": STEPS,
}
MODEL_OPTIONAL: dict[str, Rule] = {
    **dict.fromkeys(("reason", "preemption"), TEXT),
    **dict.fromkeys(("layer", "position", "outputs", "hits", "preemptions", "copies"), COUNT),
    **dict.fromkeys(("margin", "error", "noise"), NUMBER),
    "step_ns": SAMPLES,
    "captured": OBJECT,
    "provenance": WORDS,
}

Fields = tuple[dict[str, Rule], dict[str, Rule], tuple[str, dict[str, Rule]]]
"""Required ones, optional ones, and the rules of one field that is an object."""
KINDS: dict[str, Fields] = {
    "sweep": (CELL_REQUIRED, CELL_OPTIONAL, ("check", CELL_CHECK)),
    "operation": (OPERATION_REQUIRED, OPERATION_OPTIONAL, ("check", {})),
    "conformance": (CHECK_REQUIRED, CHECK_OPTIONAL, ("failure", CHECK_FAILURE)),
    "serving": (SERVING_REQUIRED, SERVING_OPTIONAL, ("failure", CHECK_FAILURE)),
    "stress": (STRESS_REQUIRED, STRESS_OPTIONAL, ("check", {})),
    "model": (MODEL_REQUIRED, MODEL_OPTIONAL, ("check", {})),
}
"""By activity; a plug that is not here has no fields of its own to hold to."""
