# SPDX-License-Identifier: Apache-2.0
"""Plugins of engines by their contracts: right ones pass, and each way to break a contract is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pabench.device.emulated import EmulatedDevice
from pabench.errors import UnknownName, Unsupported, UsageError
from pabench.judge.verdict import Verdict, judge
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.subjects.backends.base import Backend, attend
from pabench.subjects.registry import load_backend

torch = pytest.importorskip("torch")

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
EAGER, GRAPH = (5, 1, 37), (1, 1, 1)
ALL = ("vllm", "vllm-graph", "sglang", "sglang-graph")
HEADS = {"num_qo_heads": 4, "num_kv_heads": 2, "head_dim": 16, "page_size": 4}


def plugin(folder: Path, contract: str, *changes: str) -> Backend:
    """The example of a contract, with one piece of its text in place of another."""
    name = f"{contract.partition('-')[0]}_plugin.py"
    source = (EXAMPLES / name).read_text(encoding="utf-8")
    for before, after in zip(changes[::2], changes[1::2], strict=True):
        assert before in source
        source = source.replace(before, after)
    (folder / name).write_text(source, encoding="utf-8")
    return load_backend(f"{contract}:{folder / name}:Plugin", EmulatedDevice())


def verdict(backend: Backend, q_lens: tuple[int, ...] = GRAPH, **asked: Any) -> Verdict:
    batch = Batch(
        kv_lens=(9, 3, 300), q_lens=tuple(min(*one) for one in zip(q_lens, (9, 3, 300), strict=True))
    )
    layout = {"kv_layout": asked.pop("kv_layout", "NHD"), "poison": "nan", "tail": "int-max"}
    tensors = build_tensors(Case(problem=Problem(**{**HEADS, **asked}), batch=batch, **layout))
    output = attend(backend, tensors)
    return judge(tensors, output.out, output.lse, backend.profile, allow_missing_lse=True)


@pytest.mark.parametrize("asked", [{}, {"window": 7}, {"dtype": "float16"}, {"kv_layout": "HND"}], ids=str)
@pytest.mark.parametrize("contract", ALL)
def test_a_right_plugin_passes(contract: str, asked: dict[str, Any], tmp_path: Path) -> None:
    backend = plugin(tmp_path, contract)
    found = verdict(backend, **asked)
    assert found.passed, found.text
    if "prefill" in backend.capabilities.operations:
        found = verdict(backend, EAGER, **asked)
        assert found.passed, found.text


@pytest.mark.parametrize(
    ("contract", "before", "after"),
    [
        ("vllm", "key_at <= row", "key_at < row + 2"),
        ("vllm", "self.window or", "self.window + 1 if self.window else"),
        ("sglang", "at <= row", "at <= row + 1"),
        ("sglang", "at >= row -", "at > row -"),
        ("sglang", "zip(batch.req_pool_indices,", "zip(range(1, 9),"),
    ],
)
def test_a_wrong_mask_or_table_is_the_judges(contract: str, before: str, after: str, tmp_path: Path) -> None:
    strict = ", strict=True)]\n", ")]\n"
    changes = (before, after, *(strict if "zip(" in before else ()))
    assert not verdict(plugin(tmp_path, contract, *changes), EAGER, window=7).passed


@pytest.mark.parametrize(
    ("contract", "before", "after", "said"),
    [
        ("vllm", "[new] // size,", "[new] // size * 0,", "slot [0-3] .*was changed"),
        ("vllm", "[key, value], -1", "[key, key], -1", "V of slot .*not written right"),
        (
            "vllm",
            "return Meta",
            "common_attn_metadata.seq_lens[0] = 1\n        return Meta",
            "builder changes",
        ),
        (
            "vllm",
            "common.query_start_loc,",
            "common.query_start_loc + 1,",
            "query_start_loc: must rise from 0",
        ),
        ("vllm-graph", "common.seq_lens", "common.seq_lens.clone()", "seq_lens: lies elsewhere at replay"),
        ("vllm-graph", "new = meta.slots >= 0", "new = meta.slots >= -9", "was changed"),
        ("sglang-graph", ": count + 1],", ": count + 1].clone(),", "kv_indptr: lies elsewhere at replay"),
        ("sglang", "batch.seq_lens.cumsum(0)", "batch.seq_lens", "kv_indptr: must rise from 0"),
        ("sglang", "[: len(found)] = found", "[: len(found)] = found + 10**6", "kv_indices: must be below"),
        ("sglang", "q, group =", "batch.seq_lens -= 1\n        q, group =", "forward changes seq_lens"),
        ("sglang", "return out.flatten(1)", "return out.flatten(1)[:1]", "forward returned"),
    ],
)
def test_a_broken_contract_is_named(
    contract: str, before: str, after: str, said: str, tmp_path: Path
) -> None:
    backend = plugin(tmp_path, contract, before, after)
    with pytest.raises(AssertionError, match=said):
        verdict(backend)


OLD = """
    def init_forward_metadata_capture_cuda_graph(self, bs, tokens, req, lens, encoder_lens, mode, spec):
        self._old(bs, req, lens)

    def init_forward_metadata_replay_cuda_graph(self, bs, req, lens, total, encoder_lens, mode, spec, cpu):
        assert total == sum(cpu.tolist()) == sum(lens.tolist())
        self._old(bs, req, lens)

    def _old(self, bs, req, lens):
        batch = types.SimpleNamespace(batch_size=bs, req_pool_indices=req, seq_lens=lens)
        self.init_forward_metadata_out_graph(batch)

    forward_decode = forward_extend
"""


def test_a_plugin_of_before_is_captured_and_replayed(tmp_path: Path) -> None:
    last = "\n    forward_decode = forward_extend\n"
    found = verdict(plugin(tmp_path, "sglang-graph", last, OLD))
    assert found.passed, found.text
    stale = OLD.replace("sum(lens.tolist())\n        self._old(bs, req, lens)", "sum(lens.tolist())")
    assert stale != OLD
    assert not verdict(plugin(tmp_path, "sglang-graph", last, stale)).passed


def test_what_a_plugin_declines_is_unsupported(tmp_path: Path) -> None:
    backend = plugin(tmp_path, "vllm", "(torch.float32, torch.float16)", "(torch.float32,)")
    assert backend.capabilities.dtypes == {"float32"}
    never = ("AttentionCGSupport.UNIFORM_BATCH", "AttentionCGSupport.NEVER")
    with pytest.raises(Unsupported, match="no CUDA graphs"):
        plugin(tmp_path, "vllm-graph", *never)
    with pytest.raises(Unsupported, match="init_cuda_graph_state"):
        plugin(tmp_path, "sglang-graph", "init_cuda_graph_state(self, max", "begin(self, max")


def test_what_is_no_plugin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.py").write_text("class Other: ...\n")
    with pytest.raises(UsageError, match="no get_impl_cls; must be an AttentionBackend of vLLM"):
        load_backend(f"vllm:{tmp_path}/other.py:Other", EmulatedDevice())
    with pytest.raises(UsageError, match="no such file"):
        load_backend("sglang:nowhere.py:Other", EmulatedDevice())
    with pytest.raises(UnknownName, match="'colour'"):
        plugin(tmp_path, "sglang", '"features"', '"colour"')
