# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pabench.errors import InvalidCase, UsageError
from pabench.workloads.traces import Trace, read_trace
from tests.robust.traces.make_unclosed import write_unclosed

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
FIRST = "2023-11-16 18:17:03.9799600,4808,10"
AZURE = f"{HEADER}\r\n{FIRST}\r\n2023-11-16 18:17:04.0319600,3180,8"
RAW = Path(__file__).resolve().parents[2] / ".." / "shared" / "traces"


def _mooncake(**changes: object) -> str:
    row = {"timestamp": 3000, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]} | changes
    return json.dumps({key: value for key, value in row.items() if value is not None})


def _write(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "requests.of.today.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_traces_azure_2023(tmp_path: Path) -> None:
    trace = read_trace(_write(tmp_path, AZURE))
    assert trace.name == "requests"
    assert trace.num_requests == 2
    assert trace.prompt_tokens.tolist() == [4808, 3180]
    assert trace.output_tokens.tolist() == [10, 8]
    assert trace.prompt_tokens.dtype == np.int64
    assert trace.arrival_s.tolist() == [0.0, pytest.approx(0.052, abs=1e-6)]


def test_traces_azure_2024_stamps_columns_in_another_order(tmp_path: Path) -> None:
    text = "GeneratedTokens,Extra,TIMESTAMP,ContextTokens\n" + "".join(
        f"{n},x,2024-05-10 00:00:0{n}{zone},{n}00\n" for n, zone in ((1, "+00:00"), (2, ".5+00:00"), (3, "Z"))
    )
    trace = read_trace(_write(tmp_path, "\ufeff" + text))
    assert trace.prompt_tokens.tolist() == [100, 200, 300]
    assert trace.output_tokens.tolist() == [1, 2, 3]
    assert trace.arrival_s.tolist() == [0.0, 1.5, 2.0]


def test_traces_mooncake_sorted_by_arrival(tmp_path: Path) -> None:
    rows = [
        _mooncake(),
        *(_mooncake(timestamp=at, input_length=size, hash_ids=[2]) for at, size in ((1500, 7), (3000, 8))),
    ]
    trace = read_trace(_write(tmp_path, "\n".join(rows) + "\n\n"))
    assert trace.prompt_tokens.tolist() == [7, 600, 8]
    assert trace.arrival_s.tolist() == [0.0, 1.5, 1.5]


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ("", "holds no request"),
        ("\n\n", "holds no request"),
        (HEADER, "holds no request"),
        (f"{HEADER}\n{FIRST}\n2023-11-16 18:17:04,3180", "row 3: has 2 columns, the header names 3"),
        (f"{HEADER}\n{FIRST},1", "row 2: has 4 columns"),
        (f"{HEADER}\n{FIRST}\n2023-11-16 18:17:04,many,8", "row 3, column 'ContextTokens': 'many'"),
        (f"{HEADER}\n2023-11-16 18:17:04,5,NaN", "row 2, column 'GeneratedTokens': 'NaN'"),
        (f"{HEADER}\n2023-11-16 18:17:04,-5,8", "row 2, column 'ContextTokens': '-5'"),
        (f"{HEADER}\n2023-11-16 18:17:04,5.5,8", "row 2, column 'ContextTokens': '5.5'"),
        (f"{HEADER}\n2023-11-16 18:17:04,,8", "row 2, column 'ContextTokens': ''"),
        (f"{HEADER}\n2023-11-16 18:17:04,{'9' * 5000},8", "row 2, column 'ContextTokens'"),
        (f"{HEADER}\n2023-11-16 18:17:04,16777216,1", "row 2: has 16777216 + 1 tokens"),
        (f"{HEADER}\nyesterday,5,8", "row 2, column 'TIMESTAMP': 'yesterday'"),
        (f"{HEADER}\n{FIRST}".replace("ContextTokens,", ""), "has no column 'ContextTokens'"),
        (f"{HEADER},TIMESTAMP\n{FIRST}", "more than once the column 'TIMESTAMP'"),
        ("a,b,c\n1,2,3", "row 1 begins no known format: 'a,b,c'"),
        (_mooncake() + "\n" + _mooncake()[:40], "row 2: is not whole JSON"),
        ('{"a": 1}', "row 1 begins no known format"),
        ('[{"a": 1}]', "item 1 begins no known format"),
        ("[project]\nname = 1", "row 1 begins no known format: '[project]'"),
        ('{"0": {"input_tokens": "{1: 1.0}"}}', "is what ServeGen draws requests of a client from"),
        (_mooncake() + "\n[1]", "row 2: must be a JSON object"),
        (_mooncake(input_length=None), "row 1: has no column 'input_length'"),
        (_mooncake(hash_ids=7), "row 1, column 'hash_ids'"),
        (_mooncake(input_length="600"), "row 1, column 'input_length': '600'"),
        (_mooncake(input_length=float("nan")), "row 1, column 'input_length': nan"),
        (_mooncake(output_length=-1), "row 1, column 'output_length': -1"),
        (_mooncake(output_length=True), "row 1, column 'output_length': True"),
        (_mooncake(timestamp=float("inf")), "row 1, column 'timestamp': inf"),
        (_mooncake(timestamp=10**400), "row 1, column 'timestamp'"),
        (_mooncake(input_length=2**60), "must be at most 16777216 tokens"),
        (_mooncake(input_length=2**24), "row 1: has 16777216 + 5 tokens, more than"),
        ('{"a": ' + "[" * 100_000, "item 1: is not whole JSON"),
        ("{" + " " * 2_000_000, "item 1: is not whole JSON"),
        ("a" * 2_000_000, "row 1: is longer than"),
        (f"{HEADER}\n" + "1" * 3_000_000, "row 2: is longer than"),
        (b"\x7fELF\x02\x01\x00\x00", "NUL byte"),
        (b"\x89PNG\r\n\xff\xfe", "is not text"),
    ],
)
def test_traces_reject_bad_content(tmp_path: Path, content: str | bytes, where: str) -> None:
    path = _write(tmp_path, content)
    with pytest.raises(UsageError) as caught:
        read_trace(path)
    message = str(caught.value)
    assert str(path) in message
    assert where in message
    assert "\n" not in message
    # one that lists what is known is the longest
    assert len(message) < 900 + len(str(path))


def test_traces_reject_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a file"):
        read_trace(tmp_path)
    with pytest.raises(UsageError, match=r"cannot be read: No such file"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace("a\0b")


def test_traces_reject_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path, AZURE)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    # not by file mode, which does not hold for the superuser
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match="cannot be read: Permission denied"):
        read_trace(path)


@given(st.binary(max_size=200))
def test_traces_garbage_is_one_clear_line_property(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage"
    path.write_bytes(b"{" + content)
    with pytest.raises(UsageError, match="trace "):
        read_trace(path)


def _trace(count: int) -> Trace:
    tokens = np.arange(count, dtype=np.int64)
    return Trace(name="t", prompt_tokens=tokens, output_tokens=tokens * 0 + 1, arrival_s=tokens / 2)


def test_traces_draw_no_request_twice() -> None:
    spec = _trace(50).length_spec()
    assert sorted(spec.draw(50, seed=4, page_size=16)) == list(range(1, 51))
    assert len(set(spec.draw(20, seed=4, page_size=16))) == 20
    assert spec.draw(20, seed=4, page_size=16) == spec.draw(20, seed=4, page_size=64)
    assert spec.draw(20, seed=4, page_size=16) != spec.draw(20, seed=5, page_size=16)
    assert len(spec.draw(80, seed=4, page_size=16)) == 80


def test_traces_spec_crosses_processes() -> None:
    spec = _trace(50).length_spec()
    assert pickle.loads(pickle.dumps(spec)).draw(9, seed=1, page_size=8) == spec.draw(9, seed=1, page_size=8)  # noqa: S301


def test_traces_fields_agree() -> None:
    with pytest.raises(InvalidCase, match="at least one request"):
        _trace(0)
    with pytest.raises(InvalidCase, match=r"trace.arrival_s = \(2,\): must have shape \(3,\)"):
        Trace(name="t", prompt_tokens=np.zeros(3), output_tokens=np.zeros(3), arrival_s=np.zeros(2))


@pytest.mark.parametrize(
    ("name", "requests", "prompt", "output", "last_s"),
    [
        ("azure_llm_2023_code.csv", 8819, 18_059_974, 245_896, 3436),
        ("azure_llm_2023_conv.csv", 19_366, 22_361_870, 4_088_665, 3502),
        ("mooncake_conversation.jsonl", 12_031, 144_793_823, 4_122_048, 3537),
        ("mooncake_synthetic.jsonl", 3993, 61_194_628, 595_432, 1022),
    ],
)
def test_traces_real_files(name: str, requests: int, prompt: int, output: int, last_s: float) -> None:
    if not (RAW / name).is_file():
        pytest.skip(f"{name} is not beside the checkout (it is not part of the project)")
    trace = read_trace(RAW / name)
    assert trace.num_requests == requests
    assert int(trace.prompt_tokens.sum()) == prompt
    assert int(trace.output_tokens.sum()) == output
    assert trace.arrival_s[-1] == pytest.approx(last_s, abs=1)


def read_chars(path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Characters that are handed to the JSON decoder until the list is refused."""
    handed = []
    inner = json.JSONDecoder.raw_decode

    def counted(self: json.JSONDecoder, text: str, at: int = 0) -> Any:
        handed.append(len(text) - at)
        return inner(self, text, at)

    with monkeypatch.context() as patch:
        patch.setattr(json.JSONDecoder, "raw_decode", counted)
        with pytest.raises(UsageError, match="item 1: is not whole JSON"):
            read_trace(path)
    return sum(handed)


def test_sharegpt_list_that_never_closes_costs_its_size_not_its_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for numbers in (500_000, 2_000_000):
        size = write_unclosed(tmp_path / f"{numbers}.json", numbers=numbers).stat().st_size
        assert read_chars(tmp_path / f"{numbers}.json", monkeypatch) < 4 * size


def test_sharegpt_large_item_does_not_make_the_small_ones_dear(tmp_path: Path) -> None:
    turns = [{"value": "a" * 40}, {"value": "b" * 80}]
    items = [{"conversations": [{"value": "x" * 3_000_000}]}, *[{"conversations": []}] * 50_000]
    path = tmp_path / "large.json"
    path.write_text(json.dumps([*items, {"conversations": turns}]))
    begin = time.process_time()
    found = read_trace(path)
    # each item of a square cost would copy a megabyte: minutes
    assert time.process_time() - begin < 10
    assert (found.prompt_tokens.tolist(), found.output_tokens.tolist()) == ([10], [20])
