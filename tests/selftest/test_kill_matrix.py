# SPDX-License-Identifier: Apache-2.0
"""The kill matrix: the suite kills every planted fault, by name and place.

That it passes on the right kernels is what ``test_conformance_command.py`` shows, by the command.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pabench.checks import attention_checks
from pabench.checks.question import Question
from pabench.checks.registry import check_by_id
from pabench.checks.suite import BY_ID as QUESTIONS
from pabench.cli.main import run
from pabench.judge import verdict
from pabench.judge.reference import Truth, truth
from pabench.problem.features import all_features
from pabench.resources import resource_dir
from pabench.selftest.mutants import Mutant, load_mutants
from pabench.strategies import cases
from tests.support.kill_support import PLACES, examine, killed, place_of, plant

MUTANTS = load_mutants(Path(__file__).resolve().parents[1] / "mutants" / "kernels.toml")
BY_ID = {mutant.id: mutant for mutant in MUTANTS}
KERNELS = resource_dir("kernels_cuda")
SEEDS = (0, 1, 2)

WIDE = {
    "head-dim-tail-dropped-in-output",
    "append-head-dim-tail-dropped",
    "output-row-of-key-length",
    "output-ends-with-the-key",
    "latent-key-without-its-end",
}
"""Faults that need a head_dim beside 16; it costs a second compiled kernel."""

FEATURES_OF = {
    "soft-cap-after-mask": ("soft-cap",),
    "alibi-before-soft-cap": ("alibi", "soft-cap"),
    "sink-in-every-split": ("sinks",),
    "merge-without-value-scale": ("fp8-kv",),
    "append-into-the-next-head": ("kv-strides",),
    "scales-of-the-first-sequence": ("fp8-kv", "sequence-scales"),
    "value-scale-of-the-first-sequence": ("fp8-kv", "sequence-scales"),
    "key-scale-by-the-query-row": ("fp8-kv", "sequence-scales"),
}
"""What must be drawn for a mutant, where it is not the feature that its check is named after."""


def test_kill_matrix_names_questions_of_the_suite() -> None:
    assert {mutant.killed_by for mutant in MUTANTS} <= QUESTIONS.keys()


def features_of(mutant: Mutant) -> tuple[str, ...]:
    named = tuple(name for name in all_features() if f"[{name}]" in mutant.killed_by)
    return FEATURES_OF.get(mutant.id, named)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_kill_matrix_kills(mutant: Mutant, tmp_path: Path) -> None:
    kernels = plant(mutant, tmp_path)
    head_dim = 80 if mutant.id in WIDE else 16
    for seed in SEEDS:
        narrow: dict[str, Any] = {"max_head_dim": head_dim, "features": features_of(mutant)}
        text = killed(mutant, kernels, seed=seed, profile="default", **narrow)
        assert text is not None, f"{mutant.id} lives with seed {seed}"
        assert re.search(place_of(mutant.killed_by), text), text


# --- what kills: take the mechanism away and the named mutants live -----------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_kill_matrix_needs_the_bound(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loose(*arguments: Any, **options: Any) -> Truth:
        right = truth(*arguments, **options)
        return replace(right, out_bound=right.out_bound * 100.0, lse_bound=right.lse_bound * 100.0)

    kernels, check = plant(BY_ID["weights-of-11-bits"], tmp_path), "decode[cancelling-value]"
    assert examine(check, kernels, dtypes=[dtype]).outcome is not None
    monkeypatch.setattr(verdict, "truth", loose)
    assert examine(check, kernels, dtypes=[dtype]).outcome is None


@pytest.mark.parametrize("mutant", ["masked-tail-values-read", "tail-guard-by-page"])
def test_kill_matrix_needs_the_poison(mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = plant(BY_ID[mutant], tmp_path)
    assert examine("poison", kernels).outcome is not None
    monkeypatch.setattr(attention_checks, "POISONS", ("zero",))
    assert examine("poison", kernels).outcome is None


@pytest.mark.parametrize("mutant", ["lse-base-2", "lse-without-maximum", "merge-lse-base-2"])
def test_kill_matrix_needs_the_lse(mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_lse(tensors: Any, out: Any, lse: Any, profile: Any, **options: Any) -> verdict.Verdict:
        return verdict.judge(tensors, out, None, profile, **{**options, "allow_missing_lse": True})

    kernels = plant(BY_ID[mutant], tmp_path)
    monkeypatch.setattr(attention_checks, "judge", without_lse)
    assert examine(BY_ID[mutant].killed_by, kernels).outcome is None


def test_kill_matrix_needs_high_page_ids(tmp_path: Path) -> None:
    kernels = plant(BY_ID["page-id-16-bit"], tmp_path)

    def among(*placements: str) -> Question:
        return Question(
            check=check_by_id("decode"),
            clauses=(),
            draw=lambda declared: cases(families=["needle"], placements=placements, **declared.choices),
        )

    assert examine(among("shuffled", "reversed"), kernels).outcome is None
    outcome = examine(among("high"), kernels).outcome
    assert outcome is not None
    assert re.search(r"sequence \d+, query head \d+", outcome.text)


# --- the command, as a user calls it ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mutant", "select", "words"),
    [
        ("loop-bound-minus-one", "decode[needle]", r"its last key missing|the row sees 1 keys"),
        ("page-id-16-bit", "decode[high-page-ids]", r"physical page 6\d{4}.*cut to 16 bits"),
        ("masked-tail-values-read", "poison", r"a masked slot leaked through V"),
        ("kv-head-modulo", "decode[normal]", r"query head mod num_kv_heads"),
        ("accumulator-not-rescaled", "decode[ascending]", r"accumulator not rescaled"),
    ],
)
def test_kill_matrix_command_names_the_place(
    mutant: str, select: str, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kernels = plant(BY_ID[mutant], tmp_path)
    options = f"--profile quick --device emulated --kernels {kernels} -k {select} --in-process".split()
    files = ["--artifacts", str(tmp_path / "run"), "--json", str(tmp_path / "result.json")]
    assert run(["conformance", *options, *files]) == 1
    failed = [line for line in capfd.readouterr().out.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1
    assert re.search(PLACES["attention"], failed[0])
    assert re.search(words, failed[0]), failed[0]
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["checks"], result["failed"], result["exit_code"]) == (1, 1, 1)
    case = json.loads((tmp_path / "run" / result["results"][0]["failure"]["path"] / "case.json").read_text())
    assert sum(case["case"]["kv_lens"]) <= 64
    replay = ["replay", "--in-process", str(tmp_path / "run" / result["results"][0]["failure"]["path"])]
    assert run([*replay, "--kernels", str(kernels)]) == 1
    again = " ".join(capfd.readouterr().out.split())
    assert re.search(words, again), again
    assert re.search(r"sequence \d+, query head \d+, dim \d+", again)
    assert run(replay) == 0
