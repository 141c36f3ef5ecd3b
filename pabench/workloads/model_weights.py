# SPDX-License-Identifier: Apache-2.0
"""Parameters of a model, counted from its ``config.json``: matrices alone, within a few percent."""

from __future__ import annotations

from collections.abc import Sequence

from pabench.workloads.config_fields import Config
from pabench.workloads.model_layers import NOTHING, STATE


def parameters_of(config: Config, kinds: Sequence[str], latent: int) -> float:
    """Return parameters: embeddings, attention or what stands in its place, MLP and experts.

    Args:
        config: of the model.
        kinds: what each layer keeps.
        latent: numbers of a token in a latent cache; 0 for keys and values.
    """
    hidden = config.count("hidden_size", "n_embd", "d_model")
    tied = config.get("tie_word_embeddings") is True
    embeddings = config.count("vocab_size") * hidden * (1 if tied else 2)
    mixers = sum(_mixer(config, kind, hidden, latent) for kind in kinds)
    return float(embeddings + mixers + sum(_mlp(config, at, hidden) for at in range(len(kinds))))


def _mixer(config: Config, kind: str, hidden: int, latent: int) -> int:
    if kind == NOTHING:
        return 0
    if kind == STATE:
        if (values := config.count("linear_num_value_heads", default=0)) > 0:
            keys = 2 * config.count("linear_num_key_heads") * config.count("linear_key_head_dim")
            out = values * config.count("linear_value_head_dim")
            return hidden * (keys + 3 * out)
        inner = config.count("mamba_expand", "expand", default=2) * hidden
        return 3 * hidden * inner
    heads = config.count("num_attention_heads", "n_head", "num_heads")
    if latent:
        nope, rope = config.count("qk_nope_head_dim"), config.count("qk_rope_head_dim")
        value, rank = config.count("v_head_dim"), config.count("kv_lora_rank")
        query = config.count("q_lora_rank", default=0)
        queries = query * (hidden + heads * (nope + rope)) if query else hidden * heads * (nope + rope)
        return queries + hidden * latent + rank * heads * (nope + value) + heads * value * hidden
    dim = config.count("head_dim", default=hidden // heads)
    pairs = config.count("num_key_value_heads", "num_kv_heads", default=heads)
    return hidden * dim * (2 * heads + 2 * pairs)


def _mlp(config: Config, layer: int, hidden: int) -> int:
    """Gated: three matrices; experts in the layers that have them."""
    dense = config.count(
        "intermediate_size_mlp", "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden
    )
    # llama-style models have a gate; older ones say so by their names of fields
    matrices = 2 if config.get("ffn_dim") or config.get("n_embd") else 3
    experts = config.count("n_routed_experts", "num_local_experts", "num_experts", default=0)
    if not experts or not _has_experts(config, layer):
        return matrices * hidden * dense
    wide = config.count("moe_intermediate_size", "intermediate_size")
    # Llama 4 has one beside the others, and no field for it
    beside = int(str(config.get("model_type")).startswith("llama4"))
    shared = config.count("n_shared_experts", default=beside) * wide
    shared += config.count("shared_expert_intermediate_size", default=0)
    return matrices * hidden * (experts * wide + shared) + hidden * experts


def _has_experts(config: Config, layer: int) -> bool:
    if layer < config.count("first_k_dense_replace", default=0) or layer in config.whole("mlp_only_layers"):
        return False
    every = config.count("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_freq", default=1)
    return (layer + 1) % max(every, 1) == 0
