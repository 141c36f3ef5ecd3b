"""Shapes of a few language models, for bytes per token and weight traffic."""

from __future__ import annotations

from dataclasses import dataclass

from pabench.errors import InvalidCase, UnknownName
from pabench.problem.checks import whole_number


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What a model's cache and weights weigh.

    Attributes:
        name: short name, as given on the command line.
        title: full name.
        num_layers: layers that keep a cache.
        num_qo_heads: query heads.
        num_kv_heads: KV heads; 0 for a latent cache.
        head_dim: elements of a head.
        latent_dim: numbers of a token and layer in a latent cache (MLA: compressed KV and the rotary part);
            0 where keys and values are kept.
        parameters: all of them, experts included: a large batch reads every expert.
        source: where the figures come from.
    """

    name: str
    title: str
    num_layers: int
    num_qo_heads: int
    num_kv_heads: int
    head_dim: int
    latent_dim: int = 0
    parameters: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        for field in ("num_layers", "num_qo_heads", "head_dim"):
            whole_number(field, getattr(self, field), low=1)
        for field in ("num_kv_heads", "latent_dim"):
            whole_number(field, getattr(self, field), low=0)
        if (self.num_kv_heads == 0) == (self.latent_dim == 0):
            raise InvalidCase(
                "num_kv_heads", self.num_kv_heads, "must be 0 exactly where there is a latent_dim"
            )
        if self.num_kv_heads and self.num_qo_heads % self.num_kv_heads:
            raise InvalidCase("num_qo_heads", self.num_qo_heads, "must be a multiple of num_kv_heads")

    def token_bytes(self, itemsize: int) -> int:
        """Return bytes of cache a token over all layers: ``2 num_layers num_kv_heads head_dim itemsize``.

        A latent cache holds one vector in place of K and V: ``num_layers latent_dim itemsize``.
        """
        size = whole_number("itemsize", itemsize, low=1)
        numbers = self.latent_dim or 2 * self.num_kv_heads * self.head_dim
        return self.num_layers * numbers * size


MODELS: dict[str, ModelShape] = {
    model.name: model
    for model in (
        ModelShape(
            name="llama-2-7b",
            title="Llama 2 7B",
            num_layers=32,
            num_qo_heads=32,
            num_kv_heads=32,
            head_dim=128,
            parameters=6.74e9,
            source="config.json of meta-llama/Llama-2-7b",
        ),
        ModelShape(
            name="llama-3-8b",
            title="Llama 3 8B",
            num_layers=32,
            num_qo_heads=32,
            num_kv_heads=8,
            head_dim=128,
            parameters=8.03e9,
            source="The Llama 3 Herd of Models (arXiv 2407.21783), table 3",
        ),
        ModelShape(
            name="llama-3-70b",
            title="Llama 3 70B",
            num_layers=80,
            num_qo_heads=64,
            num_kv_heads=8,
            head_dim=128,
            parameters=70.6e9,
            source="The Llama 3 Herd of Models (arXiv 2407.21783), table 3",
        ),
        ModelShape(
            name="qwen3-0.6b",
            title="Qwen3 0.6B",
            num_layers=28,
            num_qo_heads=16,
            num_kv_heads=8,
            head_dim=128,
            parameters=0.6e9,
            source="Qwen3 Technical Report (arXiv 2505.09388), table 1; head_dim: config.json",
        ),
        ModelShape(
            name="qwen3-32b",
            title="Qwen3 32B",
            num_layers=64,
            num_qo_heads=64,
            num_kv_heads=8,
            head_dim=128,
            parameters=32.8e9,
            source="Qwen3 Technical Report (arXiv 2505.09388), table 1; head_dim: config.json",
        ),
        ModelShape(
            name="gemma-2-9b",
            title="Gemma 2 9B (every second layer keeps a window of 4096 only: an upper bound here)",
            num_layers=42,
            num_qo_heads=16,
            num_kv_heads=8,
            head_dim=256,
            parameters=9.24e9,
            source="Gemma 2 (arXiv 2408.00118), tables 1 and 2",
        ),
        ModelShape(
            name="mixtral-8x7b",
            title="Mixtral 8x7B",
            num_layers=32,
            num_qo_heads=32,
            num_kv_heads=8,
            head_dim=128,
            parameters=46.7e9,
            source="Mixtral of Experts (arXiv 2401.04088), table 1",
        ),
        ModelShape(
            name="opt-13b",
            title="OPT 13B",
            num_layers=40,
            num_qo_heads=40,
            num_kv_heads=40,
            head_dim=128,
            parameters=13.0e9,
            source="OPT (arXiv 2205.01068), table 1",
        ),
        ModelShape(
            name="deepseek-v3",
            title="DeepSeek-V3 (multi-head latent attention)",
            num_layers=61,
            num_qo_heads=128,
            num_kv_heads=0,
            head_dim=128,
            latent_dim=512 + 64,
            parameters=671e9,
            source="DeepSeek-V3 Technical Report (arXiv 2412.19437), section 4.2",
        ),
    )
}


def model_by_name(name: str) -> ModelShape:
    """Return the model called ``name``, in any case.

    Raises:
        UnknownName: no such model; the nearest name is offered.
    """
    key = str(name).lower()
    if key not in MODELS:
        raise UnknownName("model", str(name), MODELS)
    return MODELS[key]
