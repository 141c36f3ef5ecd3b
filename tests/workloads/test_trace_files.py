# SPDX-License-Identifier: Apache-2.0
"""Trace files as they are published: right figures, or one line that names the option."""

from __future__ import annotations

import gzip
import io
import json
import sys
import types
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pabench.activities.serving.executors import NullExecutor
from pabench.activities.serving.limits import Limits
from pabench.activities.serving.schedulers import scheduler_by_name
from pabench.activities.serving.serve import serve
from pabench.errors import EnvironmentRefused, UsageError
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.registry import load_allocator
from pabench.workloads import csv_source, json_source
from pabench.workloads.csv_fast import NotPlain
from pabench.workloads.meaning import TraceOptions
from pabench.workloads.requests import prompt_tokens_of, requests_of_trace
from pabench.workloads.traces import Trace, read_trace

FILES = Path(__file__).parent / "files"


def read(name: str, **options: Any) -> Trace:
    return read_trace(FILES / name, TraceOptions(**options))


def lines(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(
    timestamp: float | None = 0, tokens: int = 640, ids: list[Any] | None = None, **more: Any
) -> dict[str, Any]:
    told = {"timestamp": timestamp, "input_length": tokens, "output_length": 5, "hash_ids": ids}
    return {name: value for name, value in told.items() if value is not None} | more


def hit_tokens(trace: Trace) -> tuple[int, int]:
    """Tokens found in the prefix cache at page size 16, one request at a time, and all prompt tokens."""
    requests = requests_of_trace(trace)
    longest = int(trace.total_tokens.max())
    shape = PoolShape(num_pages=4096, page_size=16, max_seqs=1, max_pages_per_seq=longest // 16 + 1)
    allocator = load_allocator("host").make(None, shape)  # type: ignore[arg-type]
    limits = Limits(prefix_cache=True)
    served = serve(requests, allocator, scheduler_by_name("fcfs"), NullExecutor(1e-3), limits)
    return sum(served.log.hit), int(trace.prompt_tokens.sum())


# --- the files of the field ------------------------------------------------------------------------------


def test_files_vidur_has_times() -> None:
    trace = read("vidur_arrived_at.csv")
    assert trace.timed
    assert trace.arrival_s.tolist() == [0.0, 2.5, 7.25]


def test_files_vllm_timed_trace_is_not_taken_for_mooncake() -> None:
    with pytest.raises(UsageError, match=r"13 hash_ids for 201 tokens .* 16 would fit .*--block-tokens"):
        read("vllm_timed_trace.jsonl")
    with pytest.raises(UsageError, match="may be seconds or milliseconds: give --time-unit"):
        read("vllm_timed_trace.jsonl", block_tokens=16)
    trace = read("vllm_timed_trace.jsonl", block_tokens=16, time_unit="s")
    assert trace.arrival_s[-1] == 6
    assert trace.notes == ("16 tokens a block", "times in s")
    assert hit_tokens(trace) == (48, 804)


def test_files_mooncake_with_blocks_of_64() -> None:
    with pytest.raises(UsageError, match=r"row 1: 10 hash_ids for 640 tokens .* 64 would fit all rows"):
        read("mooncake_block64.jsonl")
    with pytest.raises(UsageError, match="are not 128 tokens a block, as --block-tokens says; 64 would fit"):
        read("mooncake_block64.jsonl", block_tokens=128)
    trace = read("mooncake_block64.jsonl", block_tokens=64)
    assert trace.arrival_s.tolist() == [0, 1, 2, 3]
    assert hit_tokens(trace) == (1728, 2560)


def test_files_mooncake_without_ids() -> None:
    trace = read("mooncake_without_hash_ids.jsonl")
    assert (trace.num_requests, int(trace.prompt_tokens.sum()), int(trace.output_tokens.sum())) == (
        2,
        1300,
        100,
    )
    assert trace.segments is None
    with pytest.raises(UsageError, match="--block-tokens 64: it has no block ids"):
        read("mooncake_without_hash_ids.jsonl", block_tokens=64)


def test_files_quoted_and_compressed_csv() -> None:
    for name in ("burstgpt_quoted.csv", "azure.csv.gz"):
        trace = read(name)
        assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([100], [10])


def test_files_agent_session_is_a_closed_loop() -> None:
    trace = read("agent_session.json")
    assert trace.prompt_tokens.tolist() == [256, 384]
    assert trace.turns is not None
    assert trace.turns.after.tolist() == [-1, 0]
    assert trace.arrival_s.tolist() == [0, 12.5]
    assert hit_tokens(trace) == (256, 640)
    with pytest.raises(UsageError, match="--turns added: prompts of this format are whole"):
        read("agent_session.json", turns="added")
    with pytest.raises(UsageError, match="--block-tokens 16: the file says that a block has 64"):
        read("agent_session.json", block_tokens=16)


def test_files_session_with_a_delay_is_a_closed_loop() -> None:
    trace = read("mooncake_session_delay.jsonl")
    assert trace.turns is not None
    assert (trace.turns.after.tolist(), trace.turns.delay_s.tolist()) == ([-1, 0], [0, 1.5])
    # AIPerf's sessions add to what was said: 1,024 and the answer of 100 before the 512
    assert trace.prompt_tokens.tolist() == [1024, 1636]
    requests = requests_of_trace(trace)
    first, second = (prompt_tokens_of(requests, index, extra=100 * (1 - index)) for index in (0, 1))
    assert second[:1124] == first
    assert read("mooncake_session_delay.jsonl", turns="whole").prompt_tokens.tolist() == [1024, 512]


# --- others of the same kinds ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stamps", "unit", "span"),
    [
        ((0, 2, 4, 6), None, None),
        ((0.0, 2.0, 4.0, 6.0), None, None),
        ((0, 1000.5, 2000, 3000), None, None),
        ((0, 1000, 2000, 3000), None, 3.0),
        ((0, 2, 4, 6), "s", 6.0),
        ((0, 2, 4, 6), "ms", 0.006),
        ((7, 7, 7, 7), None, 0.0),
        ((1.7e9, 1.7e9 + 1, 1.7e9 + 2, 1.7e9 + 3), None, 3.0),
        ((1.7e12, 1.7e12 + 1, 1.7e12 + 2, 1.7e12 + 3), None, 0.003),
    ],
)
def test_times_are_told_or_refused(
    tmp_path: Path, stamps: tuple[float, ...], unit: str | None, span: float | None
) -> None:
    path = lines(tmp_path, *(row(stamp, ids=[0, 1]) for stamp in stamps))
    if span is None:
        with pytest.raises(UsageError, match="--time-unit"):
            read_trace(path)
    else:
        assert read_trace(path, TraceOptions(time_unit=unit)).arrival_s[-1] == pytest.approx(span)


@pytest.mark.parametrize(
    ("rows", "block", "where"),
    [
        # an id for each full block only, as kv-cache-tester writes, or for the rest too
        ([(1000, 1), (640, 1)], 512, None),
        ([(1000, 2), (640, 2)], 512, None),
        ([(1000, 2), (640, 1)], 512, "row 2: 1 hash_ids for 640 tokens are not 512"),
        ([(655, 3), (1800, 4)], None, "no size fits all rows"),
        ([(600, 8)], None, "from 67 to 85 would fit all rows"),
    ],
)
def test_blocks_are_told_or_refused(
    tmp_path: Path, rows: list[tuple[int, int]], block: int | None, where: str | None
) -> None:
    path = lines(tmp_path, *(row(0, tokens, list(range(count))) for tokens, count in rows))
    if where is None:
        assert read_trace(path, TraceOptions(block_tokens=block)).segments is not None
    else:
        with pytest.raises(UsageError, match=where):
            read_trace(path, TraceOptions(block_tokens=block))


def test_ids_of_64_bits_and_of_hex_digits(tmp_path: Path) -> None:
    for ids in ([2**64 - 1, 2**63], [-1, -(2**63)], ["0xfe", "ab" * 32], [7, 2**40]):
        trace = read_trace(lines(tmp_path, row(ids=ids), row(ids=[ids[0], ids[0]])))
        assert trace.segments is not None
        one, other, *same = trace.segments.ids.tolist()
        assert min(one, other) >= 0
        assert one != other
        assert same == [one, one]


@pytest.mark.parametrize(
    ("ids", "where"),
    [
        ([[1, 2], [1, "2"]], "row 2, column 'hash_ids': '2' must be"),
        ([["1", "2"], [1, 2]], "row 2, column 'hash_ids': 1 must be"),
        ([[-1, 2], [2**63, 2]], "some are below 0, some at least 2"),
        ([[1, 2**64], [1, 2]], "row 1, column 'hash_ids': 18446744073709551616 must be"),
        ([[1, None], [1, 2]], "row 1, column 'hash_ids': None must be"),
        ([{"1": 2}, [1, 2]], "row 1, column 'hash_ids': {'1': 2} must be a list"),
    ],
)
def test_ids_of_two_kinds_are_refused(tmp_path: Path, ids: list[Any], where: str) -> None:
    with pytest.raises(UsageError, match=where):
        read_trace(lines(tmp_path, *(row(ids=each) for each in ids)))


def test_sessions_hold_whole_prompts_where_they_begin_alike(tmp_path: Path) -> None:
    turns = [row(0, 1024, [0, 1], session_id="a"), row(5000, 512, [7], session_id="b")]
    later = row(None, 1536, [0, 1, 2], session_id="a", delay=250)
    trace = read_trace(lines(tmp_path, *turns, later))
    assert trace.prompt_tokens.tolist() == [1024, 1536, 512]
    assert trace.arrival_s.tolist() == [0, 0.25, 5]
    assert trace.turns is not None
    assert trace.turns.after.tolist() == [-1, 0, -1]


@pytest.mark.parametrize(
    ("later", "where"),
    [
        ({"session_id": "a", "input_length": 600}, "give --turns whole or --turns added"),
        ({"input_length": 600, "delay": 5}, "row 2: has a delay, and no 'session_id'"),
        (
            {"session_id": "a", "input_length": 600, "delay": -5},
            "row 2, column 'delay': -5.0 must be at least 0",
        ),
        ({"session_id": [1], "input_length": 600}, r"row 2, column 'session_id': \[1\] must be"),
        ({"input_length": 600}, "row 2: has no time, as other rows have"),
        ({"session_id": "a", "input_length": 2**24 - 1000}, "with all that was said before, more than"),
    ],
)
def test_sessions_that_are_not_clear(tmp_path: Path, later: dict[str, Any], where: str) -> None:
    path = lines(tmp_path, row(0, 1024, session_id="a"), {"output_length": 5, **later})
    with pytest.raises(UsageError, match=where):
        read_trace(path, TraceOptions(turns="added" if "said before" in where else None))


def agent(**more: Any) -> dict[str, Any]:
    """A session with a sub-agent, as kv-cache-tester writes it."""
    inner = [{"t": 0, "in": 64, "out": 2, "hash_ids": [9], "think_time": 0}]
    inner.append({"t": 1, "in": 130, "out": 2, "hash_ids": [9, 8], "think_time": 0.5})
    requests = [
        {"t": 0, "in": 100, "out": 5, "hash_ids": [1], "think_time": 0},
        {"t": 3, "type": "subagent", "requests": inner},
        {"t": 9, "in": 200, "out": 5, "hash_ids": [1, 2, 3], "think_time": 4},
    ]
    return {"id": "s", "block_size": 64, "hash_id_scope": "local", "requests": requests} | more


def test_agent_sessions_with_sub_agents_one_behind_the_other(tmp_path: Path) -> None:
    path = tmp_path / "two.json"
    path.write_text(json.dumps(agent(), indent=1) + json.dumps(agent()))
    trace = read_trace(path)
    assert trace.prompt_tokens.tolist() == [100, 64, 100, 64, 130, 130, 200, 200]
    assert trace.turns is not None
    assert trace.turns.after.tolist() == [-1, 0, -1, 2, 1, 3, 0, 2]
    assert trace.turns.delay_s.tolist() == [0, 0, 0, 0, 0.5, 0.5, 4, 4]
    assert trace.segments is not None
    # ids of two sessions are unlike
    assert np.unique(trace.segments.ids).size == 10
    path.write_text(json.dumps([agent(hash_id_scope="global")] * 2))
    shared = read_trace(path)
    assert shared.segments is not None
    assert np.unique(shared.segments.ids).size == 5


@pytest.mark.parametrize(
    ("more", "where"),
    [
        ({"block_size": 0}, "item 1, column 'block_size': 0 must be"),
        ({"hash_id_scope": "mine"}, "item 1, column 'hash_id_scope': 'mine' must be"),
        ({"requests": []}, "item 1, column 'requests': must hold a request"),
        ({"requests": [{"in": 5}]}, "item 1, request 1: has no column 'out'"),
        ({"requests": [{"in": 5, "out": 1, "think_time": -1}]}, "column 'think_time': -1.0 must be"),
        ({"block_size": 16}, "item 1: 1 hash_ids for 100 tokens|row 1: 1 hash_ids for 100 tokens"),
    ],
)
def test_agent_sessions_that_are_wrong(tmp_path: Path, more: dict[str, Any], where: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(agent(**more)))
    with pytest.raises(UsageError, match=where):
        read_trace(path)


def test_results_of_benchmarks_are_length_tables(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"date": "x", "input_lens": [5, 6], "output_lens": [1, 2.0]}, indent=2))
    trace = read_trace(path)
    assert (trace.timed, trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == (
        False,
        [5, 6],
        [1, 2],
    )
    path.write_text(json.dumps({"input_lens": [5, 6], "output_lens": [1]}))
    with pytest.raises(UsageError, match="item 1: has 2 input_lens and 1 output_lens"):
        read_trace(path)


def test_results_of_aiperf_leave_out_what_failed(tmp_path: Path) -> None:
    def record(tokens: int, error: str | None = None, **about: Any) -> dict[str, Any]:
        metrics = {name: {"value": tokens, "unit": "tokens"} for name in ("input_sequence_length", "osl")}
        metrics["output_sequence_length"] = metrics.pop("osl")
        return {"metadata": about, "metrics": {} if error else metrics, "error": error}

    path = lines(tmp_path, record(5), record(6, benchmark_phase="warmup"), record(7, "503"), record(8))
    assert read_trace(path).prompt_tokens.tolist() == [5, 8]


def test_servegen_batches_have_no_times(tmp_path: Path) -> None:
    rows = [
        {"request_id": n, "type": "text", "input_length": 61, "output_length": 9, "duration": 5}
        for n in (0, 1)
    ]
    trace = read_trace(lines(tmp_path, *rows))
    assert (trace.timed, trace.total_tokens.tolist()) == (False, [70, 70])


def test_sharegpt_as_lines(tmp_path: Path) -> None:
    talk = {"conversations": [{"value": "a" * 40}, {"value": "b" * 80}]}
    assert read_trace(lines(tmp_path, talk, talk)).prompt_tokens.tolist() == [10, 10]


@pytest.mark.parametrize(
    ("stamps", "span"),
    [
        (("1700000000", "1700000002.5"), 2.5),
        (("1700000000000", "1700000002500"), 2.5),
        (("1700000000000000000", "1700000002500000000"), 2.5),
        (("5", "7"), None),
        (("2024-01-01T00:00:00Z", "2024-01-01 00:00:02.5"), 2.5),
        (("1999-01-01 00:00:00", "1999-01-01 00:00:02"), 2),
    ],
)
def test_azure_with_seconds_since_1970(tmp_path: Path, stamps: tuple[str, str], span: float | None) -> None:
    path = tmp_path / "azure.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(f"{at},1,1\n" for at in stamps))
    if span is None:
        with pytest.raises(UsageError, match="--time-unit"):
            read_trace(path)
        span = 2.0
        assert read_trace(path, TraceOptions(time_unit="s")).arrival_s[-1] == span
    else:
        assert read_trace(path).arrival_s[-1] == pytest.approx(span, abs=1e-6)
        with pytest.raises(UsageError, match="--time-unit us: its times are"):
            read_trace(path, TraceOptions(time_unit="us"))


def test_lengths_alone_ask_for_no_option() -> None:
    trace = read("vllm_timed_trace.jsonl", lengths_only=True)
    assert trace.total_tokens.tolist() == [221] * 4


# --- compressed ------------------------------------------------------------------------------------------


def test_gzip_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "cut.csv.gz"
    whole = gzip.compress((FILES / "vidur_arrived_at.csv").read_bytes() * 1000)
    for broken in (whole[:-20], whole[: len(whole) // 2], whole[:8] + b"\xff" * 40):
        path.write_bytes(broken)
        with pytest.raises(UsageError, match=r"damaged or cut off|cannot be read"):
            read_trace(path)


def test_zstandard_asks_for_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace.csv.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd" + b"x" * 20)
    for name in ("compression.zstd", "backports.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EnvironmentRefused, match="is compressed by Zstandard") as caught:
        read_trace(path)
    assert caught.value.exit_code == 7
    assert "pip install zstandard" in str(caught.value.hint)
    # where Python has it; nothing here can unpack, so that the module is a stub
    module: Any = types.ModuleType("compression.zstd")
    module.ZstdFile = lambda file: io.BytesIO((FILES / "vidur_arrived_at.csv").read_bytes())
    monkeypatch.setitem(sys.modules, "compression.zstd", module)
    assert read_trace(path).num_requests == 3


def test_zstandard_that_is_cut_off_at_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package takes any end of a file for the end of the data; a stub for its objects."""

    class Frame:
        eof, unused_data = False, b""

        def decompress(self, packed: bytes) -> bytes:
            whole, mark, rest = packed.partition(b"END")
            self.eof, self.unused_data = bool(mark), rest
            return whole.removeprefix(b"\x28\xb5\x2f\xfd")

    module: Any = types.ModuleType("zstandard")
    module.ZstdDecompressor = lambda: types.SimpleNamespace(decompressobj=Frame)
    for name in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "zstandard", module)
    path = tmp_path / "trace.csv.zst"
    whole = b"\x28\xb5\x2f\xfd" + (FILES / "vidur_arrived_at.csv").read_bytes() + b"\n"
    path.write_bytes(whole + b"END" + b"9.5,1,1\nEND")
    assert read_trace(path).num_requests == 4
    path.write_bytes(whole)
    with pytest.raises(UsageError, match="damaged or cut off: it ends inside a frame"):
        read_trace(path)


# --- two ways of reading, one result ---------------------------------------------------------------------


CELLS = st.sampled_from(["1", "250", "472.0", "007", "", "-1", "x", "1e3", "9" * 19, " 5", '"6"', "1_0", "٣"])
TIMES = st.sampled_from(
    [
        *("2023-11-16 18:17:03.9799600", "2024-02-29 23:59:59.1234567", "2023-02-29 00:00:00.0000000"),
        *("2024-05-10 00:00:00.009930+00:00", "2024-05-10 00:00:00", "1700000000", "1700000000.25"),
        *("2023-11-16 24:00:00.0000000", "soon"),
    ]
)


@given(st.lists(st.tuples(TIMES, CELLS, CELLS), min_size=1, max_size=4))
def test_csv_at_once_and_row_by_row_agree(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(",".join(row) + "\n" for row in rows)
    )

    def outcome() -> object:
        try:
            trace = read_trace(path)
        except UsageError as refused:
            return str(refused)
        return [column.tolist() for column in (trace.prompt_tokens, trace.output_tokens, trace.arrival_s)]

    def slow(*args: object) -> None:
        raise NotPlain

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_source, "plain_fields", slow)
        expected = outcome()
    assert outcome() == expected


@pytest.mark.parametrize("digits", range(10))
def test_csv_at_once_reads_every_fraction(tmp_path: Path, digits: int) -> None:
    path, point = tmp_path / "azure.csv", "." if digits else ""
    stamps = [
        f"2024-02-{day} 03:04:05{point}{fraction[:digits]}"
        for day, fraction in (("28", "123456789"), ("29", "987654321"))
    ]
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(f"{at},1,1\n" for at in stamps))
    one, other = (datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp() for at in stamps)
    assert read_trace(path).arrival_s[1] == other - one


def test_lines_that_are_whole_together_only_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.jsonl"
    first = json.dumps(row())
    for broken in (
        f'{first},{{"a": [{{"x": 1}}\n{{"y": 2}}]}}\n',
        f'{first},"|",{{"a": [{{"x": 1}}\n{{"y": 2}}]}}\n',
        f"{first}\n{first},{first}\n",
    ):
        path.write_text(broken)
        with pytest.raises(UsageError, match="is not whole JSON"):
            read_trace(path)


def test_chunks_end_at_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lines(tmp_path, *(row(60 * n, ids=[n, n + 1]) for n in range(500)))
    whole = read_trace(path)
    monkeypatch.setattr(json_source, "CHUNK_CHARS", 97)
    pieces = read_trace(path)
    assert pieces.segments is not None
    assert whole.segments is not None
    assert pieces.segments.ids.tolist() == whole.segments.ids.tolist()
    assert pieces.arrival_s.tolist() == whole.arrival_s.tolist()
    with path.open("a") as file:
        file.write("\n{}\n")
    with pytest.raises(UsageError, match="row 502: has no column"):
        read_trace(path)
