# SPDX-License-Identifier: Apache-2.0
"""Results of benchmarks as length tables: what each request had, without the times, which the server made."""

from __future__ import annotations

from typing import Any

import numpy as np

from pabench.workloads.columns import Columns, columns
from pabench.workloads.fields import MISSING, TraceError, token_column
from pabench.workloads.json_source import Batch


class BenchResult:
    """``vllm bench serve --save-detailed``: lists ``input_lens`` and ``output_lens``; implements
    ``JsonReader``."""

    def read(self, batch: Batch) -> Columns:
        """See ``JsonReader``."""
        lengths: dict[str, list[Any]] = {"input_lens": [], "output_lens": []}
        numbers, places = list[int](), list[str]()
        for number, place, result in zip(batch.numbers, batch.places, batch.values, strict=True):
            for name, column in lengths.items():
                if not isinstance(result.get(name), list):
                    raise TraceError(f"{place}, column {name!r}: must be a list of token counts")
                column += result[name]
            one, other = (len(result[name]) for name in lengths)
            if one != other:
                raise TraceError(f"{place}: has {one} input_lens and {other} output_lens")
            numbers += [number] * one
            places += [f"{place}, request {at}" for at in range(1, one + 1)]
        if not numbers:
            return columns([], np.empty(0, np.int64), np.empty(0, np.int64))
        return columns(
            numbers,
            *(token_column(column, places, name) for name, column in lengths.items()),
            word=batch.word,
        )


class AiperfRecords:
    """AIPerf's ``profile_export.jsonl``: an object a request with its ``metrics``; those of the warm-up, and
    those that failed, are left out.  Implements ``JsonReader``."""

    NAMES = "input_sequence_length", "output_sequence_length"

    def read(self, batch: Batch) -> Columns:
        """See ``JsonReader``."""
        kept, numbers, places = list[tuple[Any, Any]](), list[int](), list[str]()
        for number, place, record in zip(batch.numbers, batch.places, batch.values, strict=True):
            about = record.get("metadata")
            if not isinstance(about, dict) or not isinstance(record.get("metrics"), dict):
                raise TraceError(f"{place}: must have objects 'metadata' and 'metrics'")
            phase = about.get("benchmark_phase", about.get("credit_phase", "profiling"))
            if phase != "profiling" or about.get("was_cancelled") or record.get("error") is not None:
                continue
            kept.append((_value(record["metrics"], self.NAMES[0]), _value(record["metrics"], self.NAMES[1])))
            numbers.append(number)
            places.append(place)
        if not kept:
            return columns([], np.empty(0, np.int64), np.empty(0, np.int64))
        tokens = zip(zip(*kept, strict=True), self.NAMES, strict=True)
        return columns(
            numbers, *(token_column(list(values), places, name) for values, name in tokens), word=batch.word
        )


def _value(metrics: dict[str, Any], name: str) -> Any:
    metric = metrics.get(name, MISSING)
    return metric.get("value", MISSING) if isinstance(metric, dict) else metric
