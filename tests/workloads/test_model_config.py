# SPDX-License-Identifier: Apache-2.0
"""Models of ``config.json`` files: figures of models that are known, and one line for what is not clear."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.cli.main import run
from pabench.errors import UnknownName, UsageError
from pabench.problem.model_presets import MODELS
from pabench.workloads.model_config import model_of

LLAMA: dict[str, Any] = {
    **{"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32},
    **{"num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256},
}
QWEN: dict[str, Any] = {
    **{"model_type": "qwen3_moe", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32},
    **{"num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768},
    **{"num_experts": 128, "vocab_size": 151936, "use_sliding_window": False, "sliding_window": None},
}
DEEPSEEK: dict[str, Any] = {
    **{
        "model_type": "deepseek_v32",
        "hidden_size": 7168,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
    },
    **{"num_key_value_heads": 128, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128},
    **{"qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 18432, "moe_intermediate_size": 2048},
    **{"n_routed_experts": 256, "n_shared_experts": 1, "first_k_dense_replace": 3, "vocab_size": 129280},
    **{"index_head_dim": 128},
}
GPT_OSS: dict[str, Any] = {
    **{"model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 36, "num_attention_heads": 64},
    **{"num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880, "num_local_experts": 128},
    **{
        "layer_types": ["sliding_attention", "full_attention"] * 18,
        "sliding_window": 128,
        "vocab_size": 201088,
    },
}
GEMMA: dict[str, Any] = {
    **{"model_type": "gemma3_text", "hidden_size": 5376, "num_hidden_layers": 62, "num_attention_heads": 32},
    **{"num_key_value_heads": 16, "head_dim": 128, "intermediate_size": 21504, "sliding_window": 1024},
    **{"sliding_window_pattern": 6, "vocab_size": 262208, "tie_word_embeddings": True},
}
NEXT: dict[str, Any] = {
    **{"model_type": "qwen3_next", "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 16},
    **{"num_key_value_heads": 2, "head_dim": 256, "full_attention_interval": 4, "linear_num_value_heads": 32},
    **{"linear_num_key_heads": 16, "linear_key_head_dim": 128, "linear_value_head_dim": 128},
    **{"linear_conv_kernel_dim": 4, "num_experts": 512, "moe_intermediate_size": 512, "vocab_size": 151936},
    **{"shared_expert_intermediate_size": 512, "intermediate_size": 5120},
}
SCOUT: dict[str, Any] = {
    **{"model_type": "llama4_text", "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40},
    **{"num_key_value_heads": 8, "head_dim": 128, "attention_chunk_size": 8192, "intermediate_size": 8192},
    **{"intermediate_size_mlp": 16384, "num_local_experts": 16, "vocab_size": 202048},
}


def config(tmp_path: Path, fields: Any) -> str:
    path = tmp_path / "config.json"
    path.write_text(fields if isinstance(fields, str) else json.dumps(fields))
    return str(path)


@pytest.mark.parametrize(
    ("fields", "preset"),
    [
        (LLAMA, "llama-3-8b"),
        (QWEN, "qwen3-30b-a3b"),
        (DEEPSEEK, "deepseek-v3.2"),
        (GPT_OSS, "gpt-oss-120b"),
        ({"model_type": "gemma3", "vision_config": {}, "text_config": GEMMA}, "gemma-3-27b"),
        (NEXT, "qwen3-next-80b-a3b"),
        ({"text_config": SCOUT}, "llama-4-scout"),
    ],
)
def test_config_gives_the_preset(tmp_path: Path, fields: dict[str, Any], preset: str) -> None:
    found, known = model_of(config(tmp_path, fields)), MODELS[preset]
    for name in (
        "num_layers",
        "num_kv_heads",
        "latent_dim",
        "window_layers",
        "window",
        "state_bytes",
        "index_bytes",
    ):
        assert getattr(found, name) == getattr(known, name), name
    assert found.token_bytes(2) == known.token_bytes(2)
    # counted from the matrices, against what the papers say
    assert found.parameters == pytest.approx(known.parameters, rel=0.02)


def test_config_of_a_folder_takes_the_weights_as_stored(tmp_path: Path) -> None:
    config(tmp_path, LLAMA)
    assert model_of(str(tmp_path)).stored_bytes == 0
    (tmp_path / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 9.5e9}}')
    assert model_of(str(tmp_path)).stored_bytes == 9.5e9


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        # which layers keep what, of few
        ({"sliding_window": 8, "model_type": "mistral"}, (4, 4, 0)),
        ({"sliding_window": 8, "model_type": "gemma2"}, (4, 2, 0)),
        ({"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 3}, (4, 1, 0)),
        ({"sliding_window": 8, "use_sliding_window": False}, (4, 0, 0)),
        ({"attention_chunk_size": 8, "no_rope_layers": [1, 1, 1, 0]}, (4, 3, 0)),
        (
            {
                "layer_types": ["mamba", "attention", "mamba", "mamba"],
                "mamba_d_state": 4,
                "mamba_d_conv": 4,
                "mamba_n_heads": 2,
                "mamba_d_head": 3,
            },
            (1, 0, 3 * (4 * 24 + 2 * (6 + 8) * 3)),
        ),
        (
            {
                "hybrid_override_pattern": "M-*M",
                "ssm_state_size": 4,
                "conv_kernel": 4,
                "mamba_num_heads": 2,
                "mamba_head_dim": 3,
                "n_groups": 1,
            },
            (1, 0, 2 * (4 * 24 + 2 * (6 + 8) * 3)),
        ),
        (
            {
                "attn_layer_period": 4,
                "attn_layer_offset": 1,
                "mamba_d_state": 4,
                "mamba_d_conv": 4,
                "mamba_expand": 2,
            },
            (1, 0, 3 * (4 * 128 * 4 + 2 * 128 * 3)),
        ),
        (
            {
                "linear_attn_config": {
                    "full_attn_layers": [4],
                    "num_heads": 2,
                    "head_dim": 3,
                    "short_conv_kernel_size": 4,
                }
            },
            (1, 0, 3 * (4 * 18 + 2 * 18 * 3)),
        ),
    ],
)
def test_config_tells_layers_apart(
    tmp_path: Path, fields: dict[str, Any], kinds: tuple[int, int, int]
) -> None:
    small = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 9}
    found = model_of(config(tmp_path, {**small, **fields}))
    assert (found.num_layers, found.window_layers, found.state_bytes) == kinds


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("{", "is not whole JSON"),
        ("[1]", "must be a JSON object"),
        ("[" * 100_000, "is not whole JSON"),
        ({}, "has no num_hidden_layers"),
        ({**LLAMA, "num_attention_heads": None}, "has no num_attention_heads (n_head or num_heads)"),
        ({**LLAMA, "num_hidden_layers": "32"}, "num_hidden_layers = '32' must be a whole number"),
        ({**LLAMA, "num_hidden_layers": 0}, "num_hidden_layers = 0 must be at least 1"),
        ({**LLAMA, "num_hidden_layers": 10**6}, "must be at most 10000"),
        ({**LLAMA, "hidden_size": 4097}, "has no head_dim, and hidden_size 4097 is no multiple of 32 heads"),
        ({**LLAMA, "num_key_value_heads": 5}, "num_qo_heads = 32: must be a multiple of num_kv_heads"),
        ({**LLAMA, "sliding_window": 4096}, "has a sliding_window, and neither layer_types nor"),
        ({**LLAMA, "layer_types": ["full_attention"]}, "names 1 layers, and num_hidden_layers is 32"),
        ({**LLAMA, "layer_types": ["dreaming"] * 32}, "layer_types has the unknown type 'dreaming'"),
        ({**LLAMA, "layer_types": ["mamba"] * 32}, "has no layer that keeps a cache"),
        ({**LLAMA, "layer_types": ["mamba", *["attention"] * 31]}, "no fields that say how large it is"),
        ({**LLAMA, "layer_types": ["sliding_attention"] * 32}, "has no sliding_window"),
        ({**LLAMA, "hybrid_override_pattern": "M?"}, "has the unknown letter '?'"),
        ({**LLAMA, "vocab_size": None}, "has no vocab_size"),
    ],
)
def test_config_that_lacks_something_is_one_line(
    tmp_path: Path, fields: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path, fields)
    assert run(["memory", "--model", path]) == 4
    said = capsys.readouterr().err
    assert f"--model {path}: " in said
    assert words in said
    assert said.count("\n") == 1


def test_config_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown model 'llama-9'"):
        model_of("llama-9")
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        model_of(str(tmp_path / "none.json"))


# --- what a model's cache weighs -------------------------------------------------------------------------


def test_tensor_parallelism_holds_what_it_must_more_than_once() -> None:
    assert MODELS["deepseek-v3"].token_bytes(1, gpus=8) == 8 * 61 * 576
    llama = MODELS["llama-3-8b"]
    assert [llama.token_bytes(2, gpus=gpus) // llama.token_bytes(2) for gpus in (1, 8, 16, 32)] == [
        1,
        1,
        2,
        4,
    ]


def test_windows_and_states_do_not_grow_with_the_tokens() -> None:
    lengths = np.array([0, 1, 100, 10_000])
    oss = MODELS["gpt-oss-120b"]
    # pages of 16: the last 128 tokens lie in 9 at worst
    pages = np.array([0, 1, 7, 625]), np.array([0, 1, 7, 9])
    want = [16 * 2048 * 18 * (full + kept) for full, kept in zip(*pages, strict=True)]
    assert oss.held_bytes(lengths, 16, 2).tolist() == want
    hybrid = MODELS["qwen3-next-80b-a3b"]
    grown = hybrid.held_bytes(np.array([16, 32]), 16, 2)
    assert grown[1] - grown[0] == 16 * hybrid.token_bytes(2)
    assert grown[0] == 16 * hybrid.token_bytes(2) + hybrid.state_bytes


def test_memory_advises_among_sizes_that_engines_offer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = config(tmp_path, LLAMA), tmp_path / "memory.json"
    options = ["--model", path, "--lengths", "azure-conv", "--requests", "2000", "--json", str(out)]

    def advice(*more: str) -> dict[str, Any]:
        assert run(["memory", *options, *more]) == 0
        (source,) = json.loads(out.read_text())["sources"].values()
        return dict(source["advice"])

    now = advice()
    assert (now["size"], now["high"]) == (16, 128)
    sentence = now["sentence"]
    assert sentence.startswith(
        "take page size 16: 16 to 128 differ by less than 1 % (modelled), and 16 wastes 0."
    )
    assert sentence in capsys.readouterr().out
    # what it says of other costs is so
    cost = now["other_cost_s"] * 1e9
    assert advice("--page-cost-ns", f"{cost * 0.99:.6f}")["size"] == 16
    assert advice("--page-cost-ns", f"{cost * 1.01:.6f}")["size"] == now["other_size"] == 32


def test_memory_takes_types_of_cache_and_weights_apart(tmp_path: Path) -> None:
    out = tmp_path / "memory.json"

    def told(*options: str) -> dict[str, Any]:
        words = ["--lengths", "fixed:len=64", "--requests", "5", "--json", str(out)]
        assert run(["memory", "--model", "llama-3-8b", *words, *options]) == 0
        return dict(json.loads(out.read_text()))

    both = told("--cache-dtype", "fp8", "--weight-dtype", "int4")
    assert (both["token_bytes"], both["weight_bytes"]) == (65_536, 8.03e9 / 2)
    assert told("--dtype", "fp8")["weight_bytes"] == 8.03e9


def test_serving_takes_a_config_and_advises_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--lengths", "fixed:len=50", "--outputs", "fixed:len=4", "--requests", "5", "--in-process"]
    words += ["--model", config(tmp_path, GPT_OSS), "--weight-dtype", "mxfp4", "--executor", "model"]
    assert run(["serving", *words, "--page-sizes", "16,64", "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert said.out.count("take page size") == 1
    assert "every layer is served as one that keeps all tokens, an upper bound" in said.err
