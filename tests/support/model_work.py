# SPDX-License-Identifier: Apache-2.0
"""Benches of ``pabench model`` in worker processes: a tiny model, and backends and allocators that break."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from pabench.activities.model.bench import ModelBench
from pabench.activities.model.language import LanguageModel
from pabench.activities.model.plug import Model
from pabench.activities.model.runner import Generation
from tests.support.tiny_model import TinyModel

HERE = Path(__file__).resolve()


class TinyBench(ModelBench):
    """As shipped, over the tiny model."""

    def load_model(self) -> LanguageModel:
        return TinyModel()


class BrokenBench(TinyBench):
    """By page size: 8 raises, 16 ends the process, 32 hangs, others are as they are."""

    def _generate(self, page_size: int) -> Generation:
        if page_size == 8:
            raise ZeroDivisionError("no heads")
        if page_size == 16:
            os._exit(3)
        if page_size == 32:
            time.sleep(3600)
        return super()._generate(page_size)


class TinyModelPlug(Model):
    """``pabench model`` with another bench."""

    def __init__(self, *arguments: Any, bench: str, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.bench = f"{HERE}:{bench}"
