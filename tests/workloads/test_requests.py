# SPDX-License-Identifier: Apache-2.0
"""Requests as columns: traces of every format, drawn lengths, times of arrival, common beginnings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pabench.errors import InvalidCase, PabenchError, UsageError
from pabench.workloads.arrivals import ARRIVALS, with_arrivals
from pabench.workloads.families import resolve_lengths
from pabench.workloads.prefixes import PREFIXES, with_prefixes
from pabench.workloads.requests import Requests, draw_requests, prompt_tokens_of, requests_of_trace
from pabench.workloads.traces import read_trace

RAW = Path(__file__).resolve().parents[2] / ".." / "shared" / "traces"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
VIDUR = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio"


def write(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "trace.txt"
    path.write_text(content, encoding="utf-8")
    return path


def drawn(count: int = 100, prompt: str = "fixed:len=40", output: str = "fixed:len=10") -> Requests:
    return draw_requests(resolve_lengths(prompt), resolve_lengths(output), count=count, seed=0)


def talk(*texts: str) -> dict[str, object]:
    return {"id": "x", "conversations": [{"from": "human", "value": text} for text in texts]}


# --- formats ---------------------------------------------------------------------------------------------


def test_requests_burstgpt_seconds_and_extra_columns(tmp_path: Path) -> None:
    text = f"{BURST}\n5,ChatGPT,472,18,490,Conversation log\n45.5,GPT-4,1087,0,1087,API log\n"
    trace = read_trace(write(tmp_path, text))
    assert trace.timed
    assert trace.prompt_tokens.tolist() == [472, 1087]
    assert trace.output_tokens.tolist() == [18, 0]
    assert trace.arrival_s.tolist() == [0.0, 40.5]


def test_requests_vidur_has_no_times(tmp_path: Path) -> None:
    trace = read_trace(write(tmp_path, f"{VIDUR}\n3772,54,3826,69.8\n2015,156,2171,12.9"))
    assert not trace.timed
    assert trace.total_tokens.tolist() == [3826, 2171]
    with pytest.raises(UsageError, match="has no times"):
        with_arrivals(requests_of_trace(trace), "trace", seed=0, timed=trace.timed)


def test_requests_qwen_blocks_of_16_in_seconds(tmp_path: Path) -> None:
    rows = [
        {"chat_id": 1, "parent_chat_id": -1, "timestamp": at, "input_length": size, "output_length": 5}
        | {"type": "text", "turn": 1, "hash_ids": ids}
        for at, size, ids in ((2.5, 40, [7, 8, 9]), (1.0, 33, [7, 8, 10]))
    ]
    trace = read_trace(write(tmp_path, "\n".join(map(json.dumps, rows))))
    assert trace.arrival_s.tolist() == [0.0, 1.5]
    requests = requests_of_trace(trace)
    assert requests.segments is not None
    # in order of arrival
    assert requests.segments.ids.tolist() == [7, 8, 10, 7, 8, 9]
    assert requests.segments.tokens.tolist() == [16, 16, 1, 16, 16, 8]
    one, other = (prompt_tokens_of(requests, index) for index in (0, 1))
    assert (len(one), len(other)) == (33, 40)
    assert one[:32] == other[:32]
    assert one[32] != other[32]


def test_requests_sharegpt_first_pair_of_turns(tmp_path: Path) -> None:
    items = [
        talk("a" * 40, "b" * 81, "c"),
        talk("alone"),
        talk("tiny", "b" * 80),
        talk("a" * 4 * 1025, "b" * 80),
        talk("a" * 4 * 1000, "b" * 4 * 1049),
        talk('ä]{"' * 10, "b" * 16),
    ]
    trace = read_trace(write(tmp_path, json.dumps(items, indent=1, ensure_ascii=False)))
    assert trace.prompt_tokens.tolist() == [10, 10]
    assert trace.output_tokens.tolist() == [21, 4]
    assert not trace.timed


def test_requests_sharegpt_is_read_in_pieces(tmp_path: Path) -> None:
    items = [talk("a" * (4 * (n % 1000) + 16), "b" * 16) for n in range(300)]
    trace = read_trace(write(tmp_path, json.dumps(items)))
    assert trace.prompt_tokens.tolist() == [n % 1000 + 4 for n in range(300)]


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (f"{BURST}\nsoon,m,1,2,3,l", "row 2, column 'Timestamp': 'soon'"),
        (f"{BURST}\nnan,m,1,2,3,l", "row 2, column 'Timestamp': 'nan'"),
        (f"{BURST}\n1,m,-1,2,3,l", "row 2, column 'Request tokens': '-1'"),
        (f"{VIDUR}\n1,2.5,3,4", "row 2, column 'num_decode_tokens': '2.5'"),
        ("num_prefill_tokens,pd_ratio\n1,2", "has no column 'num_decode_tokens'"),
        ('{"timestamp": 1, "input_length": 9, "output_length": 1, "hash_ids": [0.5]}', "'hash_ids': 0.5"),
        ('{"timestamp": 1, "input_length": 9, "output_length": 1, "hash_ids": [true]}', "'hash_ids': True"),
        (
            '{"chat_id": 1, "timestamp": "x", "input_length": 9, "output_length": 1, "hash_ids": []}',
            "column 'timestamp': 'x' must be a time, as a number",
        ),
        ("[", "item 1: is not whole JSON"),
        ("[]", "holds no request"),
        ("[1", "row 1 begins no known format: '[1'"),
        ("[{}, 1]", "item 2: must be a JSON object: '1'"),
        ('[{"conversations": 3}]', "item 1, column 'conversations'"),
        ('[{"conversations": [{"value": 1}, {"value": "x"}]}]', "item 1, column 'conversations': a turn"),
        (json.dumps([talk("a" * 16, "b" * 16)])[:-1], "item 2: expected ',' or ']' before it, found ''"),
        (json.dumps([talk("a" * 16, "b" * 16)])[:-1] + " {", "item 2: expected ',' or ']'"),
        ("[" * 100_000, "item 1: is not whole JSON"),
    ],
)
def test_requests_bad_files_name_row_and_column(tmp_path: Path, content: str, where: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UsageError) as caught:
        read_trace(path)
    assert where in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_requests_real_blocks() -> None:
    path = RAW / "mooncake_synthetic.jsonl"
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside the checkout (it is not part of the project)")
    requests = requests_of_trace(read_trace(path))
    segments = requests.segments
    assert segments is not None
    assert (segments.ids.size, np.unique(segments.ids).size) == (121_877, 43_924)
    # every prompt is covered exactly
    assert np.array_equal(np.add.reduceat(segments.tokens, segments.indptr[:-1]), requests.prompt_tokens)


def test_requests_real_length_table() -> None:
    path = RAW / "arxiv_summarization_llama2.csv"
    if not path.is_file():
        pytest.skip(f"{path.name} is not beside the checkout (it is not part of the project)")
    trace = read_trace(path)
    assert (trace.num_requests, int(trace.prompt_tokens.sum()), int(trace.output_tokens.sum())) == (
        28_257,
        73_131_321,
        8_234_948,
    )


# --- drawn -----------------------------------------------------------------------------------------------


def test_requests_columns_of_one_spec_are_independent() -> None:
    requests = drawn(4000, "lognormal:mean=300,cv=1", "lognormal:mean=300,cv=1")
    assert abs(np.corrcoef(requests.prompt_tokens, requests.output_tokens)[0, 1]) < 0.1
    again = drawn(4000, "lognormal:mean=300,cv=1", "lognormal:mean=300,cv=1")
    assert np.array_equal(requests.prompt_tokens, again.prompt_tokens)


def test_requests_lists_go_round() -> None:
    assert drawn(5, "list:1,2", "list:7").prompt_tokens.tolist() == [1, 2, 1, 2, 1]


@pytest.mark.parametrize(
    ("spec", "rate", "cv"),
    [
        ("poisson:rate=5", 5, 1),
        ("gamma:rate=5,cv=3", 5, 3),
        ("gamma:rate=5,cv=0.5", 5, 0.5),
        ("on-off:rate=20,on=10,off=30", 5, None),
    ],
)
def test_requests_arrivals_have_their_moments(spec: str, rate: float, cv: float | None) -> None:
    times = with_arrivals(drawn(40_000), spec, seed=3, timed=False).arrival_s
    gaps = np.diff(times)
    assert (gaps >= 0).all()
    assert times.size / times[-1] == pytest.approx(rate, rel=0.05)
    if cv is not None:
        assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)
    else:
        assert (times % 40 < 10).all()
    assert np.array_equal(times, with_arrivals(drawn(40_000), spec, seed=3, timed=False).arrival_s)


def test_requests_arrivals_clock_at_once_and_scaled() -> None:
    requests = with_arrivals(drawn(5), "gamma:rate=2,cv=0", seed=0, timed=False)
    assert requests.arrival_s.tolist() == [0, 0.5, 1, 1.5, 2]
    half = with_arrivals(requests, "trace:scale=0.5", seed=0, timed=True)
    assert half.arrival_s.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert not with_arrivals(half, "at-once", seed=0, timed=True).arrival_s.any()


def test_requests_system_prompt_and_groups() -> None:
    requests = with_prefixes(drawn(2000), "groups:count=8,tokens=32,s=1", seed=1)
    assert requests.prompt_tokens.tolist() == [72] * 2000
    assert requests.segments is not None
    counts = np.bincount(requests.segments.ids, minlength=8)
    assert counts.size == 8
    # weights 1, 1/2, .., of which the first is 0.368 of all
    assert counts[0] / 2000 == pytest.approx(0.368, abs=0.04)
    one = with_prefixes(drawn(2), "system:tokens=16", seed=0)
    first, second = (prompt_tokens_of(one, index) for index in (0, 1))
    assert first[:16] == second[:16]
    assert not set(first[16:]) & set(second[16:])


def test_requests_turns_hold_what_was_said_before() -> None:
    requests = with_prefixes(drawn(5, "list:8,9,10,11,12", "list:3,4,5,6,7"), "multi-turn:turns=2", seed=0)
    # three conversations: requests 0..2 open them, 3 and 4 go on with the first two
    assert requests.prompt_tokens.tolist() == [8, 9, 10, 8 + 3 + 11, 9 + 4 + 12]
    said = prompt_tokens_of(requests, 0, extra=3)
    assert prompt_tokens_of(requests, 3)[:11] == said
    assert prompt_tokens_of(requests, 4)[:11] != said


@given(st.sampled_from(["arrivals", "prefixes"]), st.text(alphabet="poisgmartceu-:=,.019 ", max_size=30))
def test_requests_specs_are_read_or_refused_in_one_line_property(what: str, text: str) -> None:
    refused = None
    try:
        if what == "arrivals":
            with_arrivals(drawn(3), text, seed=0, timed=True)
        else:
            with_prefixes(drawn(3), text, seed=0)
    except PabenchError as error:
        refused = str(error)
    assert refused is None or "\n" not in refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("poison", "did you mean 'poisson'"),
        ("poisson:rate=0", "poisson:rate = 0.0: must be at least 1e-06"),
        ("poisson:rate=-1", "must be at least"),
        ("poisson:rate=nan", "must be finite"),
        ("poisson:rate", "must read key=value"),
        ("poisson:", "nothing after the colon"),
        ("poisson:rate=1,rate=2", "given twice"),
        ("gamma:sv=1", "unknown parameter of gamma"),
    ],
)
def test_requests_refuse_bad_arrivals(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_arrivals(drawn(3), text, seed=0, timed=True)


def test_requests_refuse_what_does_not_fit_together() -> None:
    with pytest.raises(InvalidCase, match="must be a whole number"):
        with_prefixes(drawn(3), "fork:n=1.5", seed=0)
    shared = with_prefixes(drawn(3), "system", seed=0)
    with pytest.raises(InvalidCase, match="has its own"):
        with_prefixes(shared, "groups", seed=0)
    with pytest.raises(InvalidCase, match="at most 16777216 tokens each"):
        with_prefixes(drawn(9, "fixed:len=9000000"), "multi-turn:turns=3", seed=0)
    with pytest.raises(InvalidCase, match="must have shape"):
        Requests(name="x", prompt_tokens=np.zeros(2, int), output_tokens=np.zeros(3, int))
    assert set(ARRIVALS) == {"at-once", "poisson", "gamma", "on-off", "trace"}
    assert set(PREFIXES) == {"none", "system", "groups", "multi-turn", "fork"}
