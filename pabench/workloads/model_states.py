# SPDX-License-Identifier: Apache-2.0
"""Bytes of the state that a layer without a cache of tokens keeps for a sequence."""

from __future__ import annotations

from pabench.workloads.config_fields import Config, ConfigError

STATE_ITEM, CONV_ITEM = 4, 2
"""Recurrent states are float32 in engines, the inputs that a convolution looks back on 16 bits."""


def state_bytes(config: Config) -> int:
    """Return bytes a sequence and layer; raises ``ConfigError`` where the fields are of no known kind."""
    linear = config.get("linear_attn_config")
    if isinstance(linear, dict):
        # Kimi Delta Attention: queries, keys and values are convolved
        kda = Config(linear)
        heads, dim = kda.count("num_heads"), kda.count("head_dim")
        return _bytes(heads * dim * dim, 3 * heads * dim, kda.count("short_conv_kernel_size"))
    if config.get("linear_num_value_heads") is not None:
        # Gated DeltaNet of Qwen3-Next
        keys, values = config.count("linear_num_key_heads"), config.count("linear_num_value_heads")
        key_dim, value_dim = config.count("linear_key_head_dim"), config.count("linear_value_head_dim")
        convolved = 2 * keys * key_dim + values * value_dim
        return _bytes(values * key_dim * value_dim, convolved, config.count("linear_conv_kernel_dim"))
    size = config.count("ssm_state_size", "mamba_d_state", default=0)
    if not size:
        raise ConfigError("has layers with a state, and no fields that say how large it is")
    kernel = config.count("conv_kernel", "mamba_d_conv")
    heads = config.count("mamba_num_heads", "mamba_n_heads", default=0)
    if heads:
        inner = heads * config.count("mamba_head_dim", "mamba_d_head")
        groups = config.count("n_groups", "mamba_n_groups", default=1)
        return _bytes(inner * size, inner + 2 * groups * size, kernel)
    inner = config.count("mamba_expand") * config.count("hidden_size")
    return _bytes(inner * size, inner, kernel)


def _bytes(state: int, convolved: int, kernel: int) -> int:
    return STATE_ITEM * state + CONV_ITEM * convolved * max(kernel - 1, 0)
