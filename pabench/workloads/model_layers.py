# SPDX-License-Identifier: Apache-2.0
"""What each layer of a model keeps, from its ``config.json``."""

from __future__ import annotations

from pabench.workloads.config_fields import Config, ConfigError

FULL, WINDOW, STATE, NOTHING = "full", "window", "state", "nothing"

LAYER_TYPES = {
    "full_attention": FULL,
    "attention": FULL,
    "sliding_attention": WINDOW,
    "chunked_attention": WINDOW,
    "linear_attention": STATE,
    "mamba": STATE,
    "mamba2": STATE,
}
EVERY_LAYER = {"mistral", "mixtral", "phi3", "phimoe", "starcoder2", "ministral"}
"""Model types in which ``sliding_window`` holds for all layers."""
PATTERN = {"M": STATE, "*": FULL, "-": NOTHING, "E": NOTHING}
"""Letters of Nemotron-H's ``hybrid_override_pattern``: Mamba, attention, MLP, experts."""
MAX_LAYERS = 10_000


def layer_kinds(config: Config) -> list[str]:
    """Return what each layer keeps: keys and values of all tokens, of a window, a state, or nothing.

    Raises:
        ConfigError: a layer of unknown type, or it is not said which layers have a window.
    """
    layers = config.count("num_hidden_layers", "n_layer", "num_layers", "n_layers")
    if layers > MAX_LAYERS:
        raise ConfigError(f"num_hidden_layers = {layers} must be at most {MAX_LAYERS}")
    found = _listed(config) or _hybrid(config, layers) or _windows(config, layers)
    if len(found) != layers:
        raise ConfigError(f"names {len(found)} layers, and num_hidden_layers is {layers}")
    return found


def _listed(config: Config) -> list[str]:
    types, pattern = config.get("layer_types"), config.get("hybrid_override_pattern")
    if isinstance(pattern, str):
        if unknown := set(pattern) - set(PATTERN):
            raise ConfigError(f"hybrid_override_pattern has the unknown letter {min(unknown)!r}")
        return [PATTERN[letter] for letter in pattern]
    if types is None:
        return []
    if not isinstance(types, list):
        raise ConfigError("layer_types must be a list")
    for name in types:
        if not isinstance(name, str) or name not in LAYER_TYPES:
            raise ConfigError(f"layer_types has the unknown type {str(name)[:40]!r}")
    return [LAYER_TYPES[name] for name in types]


def _hybrid(config: Config, layers: int) -> list[str]:
    """Layers of families that say in fields of their own which of them have attention."""
    linear = config.get("linear_attn_config")
    if isinstance(linear, dict):
        # Kimi Linear counts from 1
        full = set(Config(linear).whole("full_attn_layers"))
        return [FULL if at in full else STATE for at in range(1, layers + 1)]
    if (every := config.count("full_attention_interval", default=0)) > 0:
        return [FULL if at % every == 0 else STATE for at in range(1, layers + 1)]
    if (period := config.count("attn_layer_period", default=0)) > 0:
        first = config.count("attn_layer_offset", default=0)
        return [FULL if at % period == first else STATE for at in range(layers)]
    if config.get("attn_layer_indices") is not None:
        full = set(config.whole("attn_layer_indices"))
        return [FULL if at in full else STATE for at in range(layers)]
    return []


def _windows(config: Config, layers: int) -> list[str]:
    kind = config.get("model_type")
    if config.count("attention_chunk_size", default=0) > 0:
        # Llama 4: the layers with rotary positions see their chunk alone
        if rotary := config.whole("no_rope_layers"):
            return [WINDOW if flag else FULL for flag in rotary]
        every = config.count("no_rope_layer_interval", default=4)
        return [FULL if every and at % every == 0 else WINDOW for at in range(1, layers + 1)]
    if not config.count("sliding_window", default=0) or config.get("use_sliding_window") is False:
        return [FULL] * layers
    if (pattern := config.count("sliding_window_pattern", "_sliding_window_pattern", default=0)) > 0:
        return [FULL if at % pattern == 0 else WINDOW for at in range(1, layers + 1)]
    if kind == "gemma2":
        return [FULL if at % 2 else WINDOW for at in range(layers)]
    if config.get("use_sliding_window") is True and config.get("max_window_layers") is not None:
        first = config.count("max_window_layers", default=0)
        return [FULL if at < first else WINDOW for at in range(layers)]
    if kind in EVERY_LAYER:
        return [WINDOW] * layers
    raise ConfigError(
        "has a sliding_window, and neither layer_types nor anything else that says which layers"
    )
