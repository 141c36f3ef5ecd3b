# SPDX-License-Identifier: Apache-2.0
"""A decoder of ours through ``pabench.activities.model``: pages, attention and judge, without any package."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pabench.activities.model.check import AnswerCheck, DenseLogits, check_answers
from pabench.activities.model.choose import choose
from pabench.activities.model.job import Job, job_for
from pabench.activities.model.memory import PagedMemory
from pabench.activities.model.record import Setting, model_record, state_of
from pabench.activities.model.runner import Generation, generate
from pabench.device.emulated import EmulatedDevice
from pabench.errors import InvalidCase, UnknownName, Unsupported
from pabench.problem.dtypes import Array
from pabench.run.record import Status
from pabench.run.schema import read_line
from pabench.subjects.allocators.base import PoolShape
from pabench.subjects.allocators.results import Prompt
from pabench.subjects.allocators.scan import ScanAllocator
from pabench.subjects.registry import load_backend
from tests.support.late_values import late_values
from tests.support.tiny_model import TinyModel

PROMPTS = ("the quick brown fox jumps", "the quick brown fox sits here", "another one")


@cache
def device() -> EmulatedDevice:
    return EmulatedDevice()


@cache
def model() -> TinyModel:
    return TinyModel()


def run(job: Job, *, on: EmulatedDevice | None = None, **more: Any) -> Generation:
    where = on or device()
    options: dict[str, Any] = {
        "backend": "rawkernel-mma",
        "allocator": "scan",
        "page_size": 8,
        "dtype": "float16",
        **more,
    }
    options["backend"] = load_backend(options["backend"], where)
    return generate(model(), job, device=where, **options)


def checked(job: Job, found: Generation, dtype: str = "float16") -> tuple[AnswerCheck, ...]:
    return check_answers(model(), job, found, DenseLogits(model(), dtype))


@pytest.mark.parametrize(
    ("backend", "dtype", "allocator", "page_size"),
    [
        ("rawkernel-mma", "float16", "scan", 8),
        ("rawkernel-mma", "bfloat16", "host", 16),
        ("rawkernel", "float32", "host", 32),
    ],
)
def test_model_tokens_are_those_of_dense_attention(
    backend: str, dtype: str, allocator: str, page_size: int
) -> None:
    job = job_for(model(), PROMPTS, max_new_tokens=9, preempt_step=7)
    found = run(job, backend=backend, dtype=dtype, allocator=allocator, page_size=page_size)
    assert found.judgement.wrong is None
    assert all(0 < ratio <= 1 for ratio in found.judgement.ratios)
    answers = checked(job, found, dtype)
    assert [(a.prompt, a.answer) for a in answers] == [(p, s) for p in range(3) for s in range(2)]
    assert all(answer.parted is None and len(answer.tokens) == 9 for answer in answers)
    assert state_of(found, answers) == (Status.PASSED, None)
    # all that the pages can do has been done
    why = {copied.why for step in found.steps for copied in step.copied}
    assert sum(step.preempted for step in found.steps) == 1
    assert found.preemption == ("swap" if allocator == "host" else "recompute")
    assert why == ({"write", "swap-out", "swap-in"} if allocator == "host" else {"write"})
    assert found.hits == len("the quick brown fox ") // page_size * page_size
    # answers share the pages of their prompt
    assert max(step.shared_pages for step in found.steps) > 0 or page_size == 32


def test_model_pages_change_nothing() -> None:
    job = job_for(model(), PROMPTS[:1], max_new_tokens=6, temperature=3.0, preempt_step=0)
    one, other = (run(job, page_size=size).answers for size in (1, 32))
    assert one == other
    assert one[0][0] != one[0][1], "the second answer is drawn"


def test_model_record_is_a_line_of_the_journal() -> None:
    job = job_for(model(), PROMPTS[:2], max_new_tokens=3, preempt_step=0)
    found = run(job)
    setting = Setting(
        model="tiny", backend="b", allocator="scan", device="emulated", page_size=8, dtype="float16"
    )
    record = model_record(setting, job, found, checked(job, found))
    assert read_line(record.to_line(), "line") == record
    rows = 2 * (sum(len(text) for text in PROMPTS[:2]) - found.hits + 2 * 2 * 2)
    outputs = record.figures["outputs"]
    assert (outputs.value, outputs.unit, str(outputs.provenance)) == (rows, "rows", "counted")
    assert str(record.figures["step_ns"].provenance) == "host"
    # what a crash leaves of it can be read too
    assert read_line(setting.blank("emulated").to_line(), "line").id == record.id


def test_model_names_layer_and_position_of_a_fault(tmp_path: Path) -> None:
    job = job_for(
        model(), ("a prompt of fifty-nine bytes, so that the fifth token is late",), max_new_tokens=12
    )
    assert len(job.tokens[0]) == 61
    found = run(job, on=EmulatedDevice(kernels=late_values(tmp_path)), page_size=16)
    wrong = found.judgement.wrong
    assert wrong is not None
    # the first step of decode that reads a second tile; the prompt went through the other kernel
    assert wrong.said.startswith("layer 0, position 64 of prompt 0 answer ")
    status, reason = state_of(found, ())
    assert (status, reason) == (Status.FAILED, wrong.said)
    # it ended there
    assert len(found.steps) == 5


def test_model_prompt_must_fit_the_pool() -> None:
    job = job_for(model(), PROMPTS, max_new_tokens=9, pool_pages=4)
    with pytest.raises(
        InvalidCase, match=r"pool_pages = 4: prompt 0 of 25 tokens and its answers need 7 pages of 8"
    ):
        run(job)


@pytest.mark.parametrize("text", ["", "  \n"])
def test_model_refuses_an_empty_prompt(text: str) -> None:
    with pytest.raises(InvalidCase, match="prompt 1"):
        job_for(model(), ("something", text))


def test_model_refuses_what_the_model_was_not_made_for() -> None:
    with pytest.raises(InvalidCase, match="takes at most 512 tokens"):
        job_for(model(), ("x" * 500,), max_new_tokens=14)
    job_for(model(), ("x" * 500,), max_new_tokens=13)


def test_model_needs_forks_for_several_answers() -> None:
    job = job_for(model(), PROMPTS[:1], max_new_tokens=2)
    with pytest.raises(Unsupported, match="offers no fork"):
        run(job, allocator="ticket")
    assert run(replace(job, samples=1), allocator="ticket").judgement.wrong is None


def test_model_refuses_unknown_names() -> None:
    job = job_for(model(), PROMPTS[:1], max_new_tokens=2)
    more: list[dict[str, Any]] = [{name: "nobody"} for name in ("allocator", "scheduler", "dtype")]
    for options in more:
        with pytest.raises(UnknownName):
            run(job, **options)


def test_model_finds_pages_that_lost_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    # copy on write that copies nothing: no kernel is wrong, but the cache is
    monkeypatch.setattr(PagedMemory, "_copy", lambda *_: None)
    job = job_for(model(), PROMPTS[:1], max_new_tokens=4, preempt_step=0)
    found = run(job)
    assert found.judgement.wrong is not None
    assert found.judgement.wrong.said.startswith("layer 0, position 25 of prompt 0 answer ")
    assert "its pages do not hold its tokens" in found.judgement.wrong.text


def test_model_tells_a_near_tie_from_a_difference() -> None:
    job = job_for(model(), PROMPTS[:1], max_new_tokens=3, preempt_step=0)
    found = run(job)
    answers = list(checked(job, found))
    token = answers[0].tokens[1]
    turned = replace(token, dense=token.token + 1)
    for noise, state in ((token.margin * 0.49, Status.FAILED), (token.margin * 0.51, Status.INCONCLUSIVE)):
        tokens = (answers[0].tokens[0], replace(turned, noise=noise), answers[0].tokens[2])
        status, reason = state_of(found, [replace(answers[0], tokens=tokens), *answers[1:]])
        assert status == state
        assert reason is not None
        assert "token 1 of prompt 0 answer 0" in reason


def test_choose_draws_from_the_softmax() -> None:
    job = Job(prompts=("x",), tokens=((1,),), temperature=2.0)
    logits: Array = np.array([0.0, 1.0, 3.0, -2.0], np.float32)
    draws = [choose(logits, job, prompt=0, answer=1, place=place).token for place in range(4000)]
    weights = np.exp(logits / 2.0) / np.exp(logits / 2.0).sum()
    counts = np.bincount(draws, minlength=4) / len(draws)
    assert np.abs(counts - weights).max() < 0.03
    assert choose(logits, job, prompt=0, answer=0, place=5) == (2, 2.0)


def test_memory_shares_prefixes_by_fork_where_the_allocator_has_no_cache() -> None:
    shape = PoolShape(num_pages=8, page_size=4, max_seqs=3, max_pages_per_seq=8)
    problem = model().sizes.problem(page_size=4, dtype="float16")
    memory = PagedMemory(ScanAllocator(device(), shape), device(), problem, 1)
    memory.alloc(0, 10)
    memory.commit(0, Prompt(tokens=tuple(range(10))))
    assert memory.lookup(Prompt(tokens=(*range(7), 99, 99))).pages == memory.pages(0)[:1]
    # the last token of a prompt is computed, whoever has it
    assert len(memory.lookup(Prompt(tokens=tuple(range(8)))).pages) == 1
    hit = memory.lookup(Prompt(tokens=tuple(range(9))))
    assert hit.pages == memory.pages(0)[:2]
    memory.adopt(2, hit)
    assert (memory.length(2), memory.pages(2)) == (8, memory.pages(0)[:2])
    memory.free([0, 2])
    assert memory.lookup(Prompt(tokens=tuple(range(9)))).pages == ()
    with pytest.raises(InvalidCase, match="a live sequence begins with"):
        memory.adopt(1, hit)
