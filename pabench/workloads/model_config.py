# SPDX-License-Identifier: Apache-2.0
"""The shape of a model from the ``config.json`` of a Hugging Face checkpoint.

What of a model keeps a cache is told by ``layer_types`` and by the older fields of single families.  Whatever
is not known for certain, such as which layers have a window, is refused.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from pabench.errors import InvalidCase, UnknownName, UsageError
from pabench.problem.model_presets import MODELS, model_by_name
from pabench.problem.models import ModelShape
from pabench.workloads.config_fields import Config, ConfigError
from pabench.workloads.model_layers import FULL, STATE, WINDOW, layer_kinds
from pabench.workloads.model_states import state_bytes
from pabench.workloads.model_weights import parameters_of

MAX_BYTES = 2**24


def model_of(name: str) -> ModelShape:
    """Return the preset called ``name``, or the model of a ``config.json`` or of the folder of a checkpoint.

    Raises:
        UnknownName: neither a preset nor a file; the nearest name is offered.
        UsageError: the file cannot be read, or does not say what is needed.
    """
    if name.lower() in MODELS:
        return model_by_name(name)
    path = Path(name)
    if path.suffix != ".json" and "/" not in name and not path.is_dir():
        raise UnknownName("model", name, MODELS)
    path = path / "config.json" if path.is_dir() else path
    try:
        return _model(Config.of(_json(path)), path)
    except (ConfigError, InvalidCase) as error:
        raise UsageError(f"--model {path}: {error}") from None


def _json(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ConfigError(f"is longer than {MAX_BYTES} bytes")
        return json.loads(text)
    except OSError as error:
        raise UsageError(f"--model {path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ConfigError("is not whole JSON") from None


def _model(config: Config, path: Path) -> ModelShape:
    kinds = layer_kinds(config)
    heads = config.count("num_attention_heads", "n_head", "num_heads")
    latent, index = 0, 0
    if (rank := config.count("kv_lora_rank", default=0)) > 0:
        latent = rank + config.count("qk_rope_head_dim")
        if (dim := config.count("index_head_dim", default=0)) > 0:
            # a number in e4m3 each, and a float32 scale for 128 of them
            index = dim + 4 * -(-dim // 128)
    kv_heads = (
        0 if latent else config.count("num_key_value_heads", "num_kv_heads", default=_kv_heads(config, heads))
    )
    kept = [kind for kind in kinds if kind in (FULL, WINDOW)]
    if not kept:
        raise ConfigError("has no layer that keeps a cache of tokens: a state alone is not paged")
    windows = kept.count(WINDOW)
    name = str(config.get("model_type") or "model")
    return ModelShape(
        name=str(path),
        title=_title(name, len(kinds), windows, kinds.count(STATE), latent),
        num_layers=len(kept),
        num_qo_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=_head_dim(config, heads),
        latent_dim=latent,
        window_layers=windows,
        window=config.count("sliding_window", "attention_chunk_size") if windows else 0,
        index_bytes=index,
        state_bytes=kinds.count(STATE) * state_bytes(config) if STATE in kinds else 0,
        parameters=parameters_of(config, kinds, latent),
        stored_bytes=_stored_bytes(path),
        source=str(path),
    )


def _kv_heads(config: Config, heads: int) -> int:
    """Without the field every query head has its own, or all have one."""
    return 1 if config.get("multi_query") is True else heads


def _head_dim(config: Config, heads: int) -> int:
    if (dim := config.count("head_dim", "v_head_dim", default=0)) > 0:
        return dim
    hidden = config.count("hidden_size", "n_embd", "d_model")
    if hidden % heads:
        raise ConfigError(f"has no head_dim, and hidden_size {hidden} is no multiple of {heads} heads")
    return hidden // heads


def _title(name: str, layers: int, windows: int, states: int, latent: int) -> str:
    parts = [f"{windows} with a window"] if windows else []
    parts += [f"{states} with a state in place of a cache"] if states else []
    parts += ["latent cache"] if latent else []
    return f"{name}, {layers} layers" + (f" ({', '.join(parts)})" if parts else "")


def _stored_bytes(path: Path) -> float:
    """Bytes of the weights, where the index of the checkpoint lies beside and tells them."""
    try:
        with (path.parent / "model.safetensors.index.json").open("rb") as file:
            found = json.loads(file.read(2**26))["metadata"]["total_size"]
        return float(found) if math.isfinite(found) and found > 0 else 0.0
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return 0.0
