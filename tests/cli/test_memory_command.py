# SPDX-License-Identifier: Apache-2.0
"""pabench memory: figures, sources of lengths, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pabench.cli.main import run

TRACE = Path(__file__).resolve().parents[3] / "shared" / "traces" / "azure_llm_2023_conv.csv"
ROWS = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:00:00.0,90,10\n2023-11-16 18:00:01.0,240,10\n"


LAYER_FIRST, HEADS_FIRST = "layer,kv,block,token,head,dim", "layer,kv,block,head,token,dim"
PAGE_FIRST = "block,layer,kv,token,head,dim"


def figures(tmp_path: Path, *options: str) -> dict[str, object]:
    out = tmp_path / "memory.json"
    assert run(["memory", "--model", "llama-3-8b", "--json", str(out), *options]) == 0
    (source,) = json.loads(out.read_text())["sources"].values()
    return dict(source)


def test_memory_command_gives_exact_figures_of_a_list(tmp_path: Path) -> None:
    result = figures(tmp_path, "--lengths", "list:100,250,17,1024,16,1", "--page-sizes", "8,16,256")
    rows = result["page_sizes"]
    assert isinstance(rows, list)
    assert [row["pages"] for row in rows] == [179, 91, 9]
    assert [row["waste_tokens"] for row in rows] == [4.0, 8.0, 896 / 6]
    assert [row["internal_fragmentation"] for row in rows] == pytest.approx([3 / 179, 3 / 91, 7 / 18])
    assert [row["efficiency_gain"] for row in rows] == pytest.approx([768 / 179, 384 / 91, 8 / 3])


def test_memory_command_reads_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text(ROWS, encoding="utf-8")
    result = figures(tmp_path, "--trace", str(trace), "--page-sizes", "16")
    assert (result["requests"], result["tokens"], result["max_tokens"]) == (2, 350, 250)
    shown = capsys.readouterr().out
    assert "trace trace.csv: 2 requests of 175.0 tokens on average" in shown
    assert "take page size" in shown
    assert "modelled" in shown


@pytest.mark.skipif(not TRACE.is_file(), reason="the real traces are not beside the checkout")
def test_memory_command_on_the_real_trace(tmp_path: Path) -> None:
    rows = figures(tmp_path, "--trace", str(TRACE), "--page-sizes", "16,64,128,256")["page_sizes"]
    assert isinstance(rows, list)
    waste = [round(row["waste_tokens"], 4) for row in rows]
    assert waste == [7.4676, 30.8149, 62.5075, 119.0454]
    shares = [round(row["internal_fragmentation"], 6) for row in rows]
    assert shares == [0.005438, 0.022064, 0.043763, 0.080172]


@pytest.mark.skipif(not TRACE.is_file(), reason="the real traces are not beside the checkout")
def test_memory_command_counts_who_fits_16_gib(tmp_path: Path) -> None:
    options = ("--trace", str(TRACE), "--page-sizes", "16,64,128,256", "--pool-gib", "16")
    rows = figures(tmp_path, *options)["page_sizes"]
    assert isinstance(rows, list)
    assert [row["capacity"] for row in rows] == [123, 122, 121, 118]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--lengths", "fixed"], "give either --model NAME or --heads"),
        (["--model", "llama-3-8b", "--heads", "8:2"], "give either"),
        (["--model", "llama-9"], "unknown model 'llama-9'"),
        (["--model", "llama-3-8b", "--lengths", "nothing"], "unknown length"),
        (["--model", "llama-3-8b", "--dtype", "int4"], "unknown dtype 'int4'"),
        (["--model", "llama-3-8b", "--weight-dtype", "int3"], "unknown dtype 'int3'; did you mean 'int8'?"),
        (["--model", "llama-3-8b", "--cache-dtype", "int4"], "unknown dtype 'int4'"),
        (["--model", "llama-3-8b", "--turns", "whole"], "--turns whole: is for --trace alone"),
        (["--model", "nowhere/config.json"], "--model nowhere/config.json: cannot be read"),
        (["--model", "llama-3-8b", "--page-sizes", "0"], "--page-sizes"),
        (["--model", "llama-3-8b", "--gpu", "x100"], "unknown gpu"),
        (["--model", "llama-3-70b"], "leave no room"),
        (["--model", "llama-3-8b", "--pool-gib", "0"], "--pool-gib = 0.0"),
        (["--model", "llama-3-8b", "--max-tokens", "5"], "--max-tokens 5: must be at least"),
        (["--model", "llama-3-8b", "--page-cost-ns", "nan"], "--page-cost-ns"),
        (["--model", "llama-3-8b", "--trace", "none.csv"], "none.csv"),
        (["--heads", "8:3"], "--heads"),
        (["--model", "llama-3-8b", "--layout", "layer,block"], "must name each of layer, block, kv, head"),
        (
            ["--model", "llama-3-8b", "--layout", f"{PAGE_FIRST}/9"],
            "/9': block_elements = 9: must be at least",
        ),
        (["--model", "llama-3-8b", "--layout", f"{PAGE_FIRST}/-9"], "must be a whole number"),
        (["--model", "llama-3-8b", "--json", "nowhere/x.json"], "must be a file in an existing folder"),
    ],
)
def test_memory_command_refuses(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["memory", *options]) == 4
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_memory_command_takes_a_shape(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--heads", "32:8", "--layers", "32", "--head-dim", "128", "--lengths", "fixed:len=64"]
    assert run(["memory", *options, "--page-sizes", "16", "--requests", "10"]) == 0
    assert "131,072 bytes of cache a token" in capsys.readouterr().out


def test_memory_command_reads_an_allocation_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "memory.json"
    options = ["memory", "--model", "llama-3-8b", "--lengths", "list:100", "--json", str(out)]
    options += ["--layout", LAYER_FIRST, "--layout", HEADS_FIRST, "--layout", f"{PAGE_FIRST}/1100000"]
    assert run([*options, "--page-sizes", "16"]) == 1
    said = capsys.readouterr().out
    page = 16 * 8 * 128 * 2
    assert f"lies in 64 pieces of {page:,} bytes; 8 neighbours move in 64 copies" in said
    assert f"lies in one piece of {64 * page:,} bytes; 8 neighbours move in 8 copies" in said
    first = "layer 0, block 0, kv 0, head 0, token 1, dim 0 is element 1024 in one reading, 128 in the other"
    assert f"{HEADS_FIRST} is not {LAYER_FIRST}: {first}" in said
    rows = json.loads(out.read_text())["layouts"]
    assert [row["unlike_first"] and row["unlike_first"][:11] for row in rows] == [
        None,
        first[:11],
        "one reading",
    ]


def test_memory_command_knows_one_reading_by_two_names(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["memory", "--model", "llama-3-8b", "--lengths", "list:100", "--layout", LAYER_FIRST]
    # of one token a page, the order of heads and tokens is all the same
    assert run([*options, "--layout", HEADS_FIRST, "--page-sizes", "1"]) == 0
    assert f"{HEADS_FIRST} reads the tokens of {LAYER_FIRST}" in capsys.readouterr().out
