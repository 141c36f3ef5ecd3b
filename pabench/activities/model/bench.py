# SPDX-License-Identifier: Apache-2.0
"""The worker's side of a model's run: loads weights and backend once, then runs one page size after another.

The model's attention is judged in the process that it runs in.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pabench.activities.model import smollm2
from pabench.activities.model.capture import capture, check_layers
from pabench.activities.model.check import AnswerCheck, DenseLogits, check_answers
from pabench.activities.model.config import config_from_dict
from pabench.activities.model.job import Job
from pabench.activities.model.language import LanguageModel
from pabench.activities.model.record import Setting, model_record
from pabench.activities.model.runner import Generation, chosen_scheduler, generate
from pabench.device.base import Device
from pabench.device.registry import DeviceRequest
from pabench.errors import EnvironmentRefused, Unsupported
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.run.alive import alive
from pabench.run.ending import error_text
from pabench.run.files import atomic_write_bytes
from pabench.run.plug import Answer, BenchBase, Env
from pabench.run.record import Status
from pabench.subjects.backends.base import Backend
from pabench.subjects.reference import BACKEND
from pabench.subjects.registry import load_allocator, load_backend
from pabench.subjects.versions import subject_facts
from pabench.workloads.captured import capture_bytes


class ModelBench(BenchBase):
    """Implements ``Bench``.

    Args:
        setup: ``config`` (a ``ModelConfig``) and ``device`` (a ``DeviceRequest``).
        env: hears that a run is alive.
    """

    def __init__(self, setup: Mapping[str, Any], env: Env) -> None:
        self._config, self._env = config_from_dict(setup["config"]), env
        self._request = DeviceRequest(**setup["device"])
        self._device: Device
        self._backend: Backend
        self._model: LanguageModel
        self._job: Job
        self._dense: DenseLogits

    def open(self) -> Mapping[str, Any]:
        """Open the device, load backend and weights, and look whether each page size can run."""
        config = self._config
        self._env.loading(f"allocator {config.allocator!r}")
        load_allocator(config.allocator)
        self._env.loading(f"device {self._request.name!r}")
        self._device = self._request.open()
        self._env.loading(f"backend {config.backend!r}")
        self._backend = load_backend(config.backend, self._device)
        with alive(lambda: self._env.loading("the language model")):
            self._model = self.load_model()
        self._job = config.job(self._model)
        if config.capture is not None:
            check_layers(self._model, config.layers)
        chosen_scheduler(self._job, config.allocator, config.scheduler)
        for page_size in config.page_sizes:
            self._check(page_size)
        self._dense = DenseLogits(self._model, config.dtype)
        device = self._device
        return {
            "device": device.name,
            "description": device.description,
            "model": self._model.name,
            "subjects": subject_facts(BACKEND, (config.backend,)),
        }

    def load_model(self) -> LanguageModel:
        """Return the model; raises ``EnvironmentRefused`` where weights or a package are missing."""
        weights = self._config.weights
        return smollm2.load_smollm2(None if weights is None else Path(weights))

    def run(self, item: Mapping[str, Any]) -> Answer:
        """Answer all prompts at one page size; the last one's answers are captured, where that is asked."""
        setting, began = Setting(**item), time.monotonic()
        blank = setting.blank(setting.device)
        try:
            found = self._generate(setting.page_size)
        except Unsupported as lacking:
            return Answer(record=replace(blank, status=Status.UNSUPPORTED, reason=str(lacking)))
        except EnvironmentRefused:
            raise
        except Exception as error:
            # whatever backend and allocator raise is theirs; what it leaves of this process, nobody knows
            record = replace(blank, status=Status.CRASHED, reason=error_text(error))
            return Answer(record=record, lost=True)
        with alive(lambda: self._env.note("dense attention")):
            # tokens behind a fault of attention say nothing more
            wrong = found.judgement.wrong is not None
            answers = () if wrong else check_answers(self._model, self._job, found, self._dense)
            record = model_record(setting, self._job, found, answers)
            if setting.page_size == self._config.page_sizes[-1]:
                record = replace(record, details={**record.details, **self._capture(answers)})
        return Answer(record=replace(record, duration_s=round(time.monotonic() - began, 3)))

    def _generate(self, page_size: int) -> Generation:
        config = self._config
        return generate(
            self._model,
            self._job,
            backend=self._backend,
            device=self._device,
            allocator=config.allocator,
            scheduler=config.scheduler,
            page_size=page_size,
            dtype=config.dtype,
            alive=lambda step: self._env.note(f"step {step}"),
        )

    def _check(self, page_size: int) -> None:
        """Raise unless pool and backend can do it at a page size."""
        self._job.pages(page_size)
        problem = self._model.sizes.problem(page_size=page_size, dtype=self._config.dtype)
        longest = max(len(tokens) for tokens in self._job.tokens)
        for q_len in (1, longest):
            batch = Batch(kv_lens=(longest,), q_lens=(q_len,))
            if reason := self._backend.capabilities.why_not(Case(problem=problem, batch=batch)):
                raise Unsupported(f"{self._backend.name}: {reason}")

    def _capture(self, answers: Sequence[AnswerCheck]) -> dict[str, Any]:
        """Write the inputs of attention for each prompt with its first answer; return what to tell of it."""
        file, layers = self._config.capture, self._config.layers
        if file is None:
            return {}
        first = {answer.prompt: answer.tokens for answer in answers if answer.answer == 0}
        sequences = [
            (*tokens, *(token.token for token in first.get(place, ())[:-1]))
            for place, tokens in enumerate(self._job.tokens)
        ]
        found = capture(self._model, sequences, layers=layers, dtype=self._config.dtype)
        atomic_write_bytes(Path(file), capture_bytes(found))
        return {
            "captured": {
                "file": file,
                "tokens": found.indptr[-1],
                "sequences": len(sequences),
                "layers": list(layers),
            }
        }
