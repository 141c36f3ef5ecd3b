# SPDX-License-Identifier: Apache-2.0
"""Presets of models beside transformers, whose configuration classes have one model's fields as defaults.

The classes are read as text, never run.  Skipped where transformers is not installed; ``make test-peers``
installs it.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from pabench.errors import Unsupported
from pabench.problem.model_presets import model_by_name
from pabench.subjects.peers.transformers import TRANSFORMERS
from pabench.workloads.model_config import model_of

ALTERNATING = ["sliding_attention", "full_attention"] * 18
CLASSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "deepseek-v3": ("deepseek_v3", "DeepseekV3Config", {}),
    "deepseek-v3.2": ("deepseek_v32", "DeepseekV32Config", {}),
    "glm-4.5-air": ("glm4_moe", "Glm4MoeConfig", {"head_dim": 128}),
    "gpt-oss-120b": ("gpt_oss", "GptOssConfig", {"layer_types": ALTERNATING}),
    "llama-4-scout": ("llama4", "Llama4TextConfig", {}),
    "mixtral-8x7b": ("mixtral", "MixtralConfig", {}),
    "qwen3-next-80b-a3b": ("qwen3_next", "Qwen3NextConfig", {"full_attention_interval": 4}),
}
"""Preset to module and class, and what the class works out that a ``config.json`` says."""
FIELDS = (
    *("num_layers", "num_qo_heads", "num_kv_heads", "latent_dim", "window_layers", "window"),
    *("index_bytes", "state_bytes"),
)


def defaults(path: Path, name: str) -> dict[str, Any]:
    """Return the fields of a class that have a literal as default."""
    tree = ast.parse(path.read_text("utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    fields = {}
    for node in found.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            try:
                fields[node.target.id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return fields


@pytest.mark.parametrize("preset", CLASSES)
def test_presets_have_the_shape_that_transformers_has_as_default(preset: str, tmp_path: Path) -> None:
    module, name, worked_out = CLASSES[preset]
    try:
        folder = TRANSFORMERS.find().folder
    except Unsupported as lacking:
        pytest.skip(str(lacking))
    path = folder / "transformers" / "models" / module / f"configuration_{module}.py"
    config = tmp_path / "config.json"
    config.write_text(json.dumps(defaults(path, name) | {"model_type": module} | worked_out))
    read, known = model_of(str(config)), model_by_name(preset)
    compared = (*FIELDS, *(() if known.latent_dim else ("head_dim",)))
    assert {field: getattr(read, field) for field in compared} == {
        field: getattr(known, field) for field in compared
    }
    assert read.parameters == pytest.approx(known.parameters, rel=0.05)
