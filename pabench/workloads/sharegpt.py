# SPDX-License-Identifier: Apache-2.0
"""ShareGPT's conversations.

They hold texts, not token counts, and counting would take a model's tokenizer: a count here is an estimate
of one token for each four characters.  As in vLLM's benchmark, a request is the first pair of turns, kept if
both have at least 4 tokens, the prompt at most 1,024 and both together at most 2,048.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pabench.workloads.columns import Columns, columns
from pabench.workloads.fields import TraceError
from pabench.workloads.json_source import Batch

CHARS_PER_TOKEN = 4
MIN_TOKENS, MAX_PROMPT, MAX_TOTAL = 4, 1024, 2048


class ShareGPT:
    """Implements ``JsonReader``."""

    def read(self, batch: Batch) -> Columns:
        """See ``JsonReader``."""
        kept = list[tuple[int, int, int]]()
        for number, place, item in zip(batch.numbers, batch.places, batch.values, strict=True):
            turns = item.get("conversations")
            if not isinstance(turns, list):
                raise TraceError(f"{place}, column 'conversations': must be a list of turns")
            if len(turns) < 2:
                continue
            prompt, output = (_tokens(turn, place) for turn in turns[:2])
            small = min(prompt, output) < MIN_TOKENS
            if not small and prompt <= MAX_PROMPT and prompt + output <= MAX_TOTAL:
                kept.append((number, prompt, output))
        number_, prompts, outputs = np.array(kept, np.int64).reshape(-1, 3).T
        return columns(number_, prompts, outputs)


def _tokens(turn: Any, place: str) -> int:
    text = turn.get("value") if isinstance(turn, dict) else None
    if not isinstance(text, str):
        raise TraceError(f"{place}, column 'conversations': a turn must have a text 'value'")
    return -(-len(text) // CHARS_PER_TOKEN)
