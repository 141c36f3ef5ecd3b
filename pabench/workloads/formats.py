# SPDX-License-Identifier: Apache-2.0
"""The formats of request traces: how each is told, what its times and block ids mean, who reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pabench.workloads.agent_sessions import AgentSessions
from pabench.workloads.csv_source import CsvColumns, header_names
from pabench.workloads.fields import TraceError
from pabench.workloads.json_rows import JsonReader, Rows
from pabench.workloads.length_results import AiperfRecords, BenchResult
from pabench.workloads.sharegpt import ShareGPT


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFormat:
    """One row of the table.

    Attributes:
        name: in words.
        alike: others of the same look.
        fields: names by which it is told: all of these keys of the first object, or any of these columns.
        csv: columns, of a CSV format.
        reader: makes a reader, of a JSON format.
        unit: of its times: a key of ``UNITS``; empty for none; a ``?`` behind it where files of the same look
            have other units.
        block_tokens: tokens that a block id stands for; 0 for none, or where the file says it.
        long: whether one object may be longer than a line ought to be.
    """

    name: str
    alike: str = ""
    fields: tuple[str, ...]
    csv: CsvColumns | None = None
    reader: Callable[[], JsonReader] = Rows
    unit: str = ""
    block_tokens: int = 0
    long: bool = False


UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Seconds of a unit."""

CSV_FORMATS = (
    TraceFormat(
        name="Azure",
        fields=("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
        csv=CsvColumns(stamp="TIMESTAMP", prompt="ContextTokens", output="GeneratedTokens", moments=True),
        unit="s?",
    ),
    TraceFormat(
        name="BurstGPT",
        fields=("Timestamp", "Request tokens", "Response tokens"),
        csv=CsvColumns(stamp="Timestamp", prompt="Request tokens", output="Response tokens"),
        unit="s",
    ),
    TraceFormat(
        name="Vidur",
        fields=("num_prefill_tokens", "num_decode_tokens"),
        csv=CsvColumns(
            stamp="arrived_at", stamp_may_lack=True, prompt="num_prefill_tokens", output="num_decode_tokens"
        ),
        unit="s",
    ),
)
# looked at in this order: the fields of a later one may be among those of an earlier
JSON_FORMATS = (
    TraceFormat(
        name="kv-cache-tester", fields=("requests", "block_size"), reader=AgentSessions, unit="s", long=True
    ),
    TraceFormat(name="ShareGPT", fields=("conversations",), reader=ShareGPT, long=True),
    TraceFormat(name="vllm bench result", fields=("input_lens",), reader=BenchResult, long=True),
    TraceFormat(name="AIPerf result", fields=("metadata", "metrics"), reader=AiperfRecords),
    TraceFormat(name="Qwen-Bailian", fields=("chat_id", "input_length"), unit="s", block_tokens=16),
    TraceFormat(name="ServeGen", fields=("request_id", "type", "input_length"), unit="ms?", block_tokens=16),
    TraceFormat(
        name="Mooncake",
        alike="vLLM timed_trace, AIPerf, Dynamo",
        fields=("input_length",),
        unit="ms?",
        block_tokens=512,
    ),
)


def csv_format(header: str) -> TraceFormat | None:
    """Return the format that a header begins; any one of its columns will do, so that the reader can name a
    missing one."""
    names = set(header_names(header))
    return next((form for form in CSV_FORMATS if names & set(form.fields)), None)


def json_format(first: dict[str, Any]) -> TraceFormat | None:
    """Return the format of a file whose first object is this; what has a request's output or time is taken
    for one that lacks its prompt."""
    form = next((form for form in JSON_FORMATS if all(name in first for name in form.fields)), None)
    return JSON_FORMATS[-1] if form is None and {"output_length", "hash_ids"} & set(first) else form


def unknown(where: str, opening: str) -> TraceError:
    """Return the error of a file of no known format, in one line that lists what is known."""

    def listed(forms: Sequence[TraceFormat]) -> str:
        names = (", ".join(filter(None, (form.name, form.alike))) for form in forms)
        return "; ".join(
            f"{name} ({', '.join(form.fields)})" for name, form in zip(names, forms, strict=True)
        )

    return TraceError(
        f"{where} begins no known format: {opening[:40]!r}.  Known are CSV: {listed(CSV_FORMATS)}.  "
        f"JSON: {listed(JSON_FORMATS)}"
    )
