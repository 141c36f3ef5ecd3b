# SPDX-License-Identifier: Apache-2.0
"""What programs read of a run: verdict, cause, place and next step; and seeds that nobody can know."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pabench.cli.conformance_verdict import verdict_of
from pabench.cli.main import run
from pabench.run.read import read_run
from tests.house.test_docs import own_kernel

SECRET = "correct horse battery staple"
RIGHT, WRONG = "enumerate(kv_lens)", "enumerate(kv_lens - (kv_lens > 1))"
ENVIRONMENT = "import os\nassert 'PABENCH_SECRET_SEED' not in os.environ\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("right.py").write_text(ENVIRONMENT + own_kernel())
    Path("wrong.py").write_text(own_kernel().replace(RIGHT, WRONG))


def asked(name: str, *more: str, out: str = "run") -> tuple[int, dict[str, Any]]:
    words = ["conformance", "--backend", name, "--profile", "quick", "--json", "verdict.json", "--out", out]
    code = run([*words, "--overwrite", *more])
    said: dict[str, Any] = json.loads(Path("verdict.json").read_text())
    assert said["exit_code"] == code
    return code, said


@pytest.mark.slow
def test_verdict_of_a_wrong_kernel_names_cause_place_and_next_step() -> None:
    code, said = asked("wrong.py:decode", "-k", "decode[normal], decode[needle]")
    verdict = said["verdict"]
    assert (code, verdict["passed"], verdict["score"]) == (1, False, 0)
    (cause,) = verdict["causes"]
    assert cause["cause"].startswith("its last key missing")
    assert cause["checks"] == ["decode[normal]", "decode[needle]"]
    assert cause["place"].startswith("sequence 0, query head 0, dim ")
    assert verdict["next_step"] == cause["next_step"]
    assert cause["next_step"].startswith("pabench replay run/failures/")


@pytest.mark.slow
def test_verdict_with_a_secret_seed_shows_it_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    for secret in (SECRET, f"another {SECRET}"):
        monkeypatch.setenv("PABENCH_SECRET_SEED", secret)
        code, said = asked("right.py:decode", "--secret-seed", "-k", "decode[normal], append")
        assert "PABENCH_SECRET_SEED" not in os.environ
        # one of two checks is not offered
        assert (code, said["verdict"]["passed"], said["verdict"]["score"]) == (0, True, 0.5)
        assert said["verdict"]["next_step"] == "run again with --profile default"
        seeds.append(read_run(Path("run")).record["config"]["seed"])
        assert said["seed"] == seeds[-1]
        for path in Path("run").rglob("*"):
            assert not path.is_file() or SECRET.encode() not in path.read_bytes()
    assert len(set(seeds)) == 2
    assert all(len(seed) == len("secret ") + 12 and seed.startswith("secret ") for seed in seeds)


def test_verdict_secret_seed_draws_other_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    from pabench.activities.conformance.request import ConformanceRequest
    from pabench.activities.conformance.secret import shown_seed, with_secret

    request = ConformanceRequest(backends=("rawkernel",), allocators=(), profile="quick", seed=0)
    found = []
    for secret in (SECRET, SECRET, f"another {SECRET}"):
        monkeypatch.setenv("PABENCH_SECRET_SEED", secret)
        found.append(with_secret(request, seed_given=False))
    assert found[0].seed == found[1].seed != found[2].seed
    assert found[0].seed > 2**32
    assert str(found[0].seed) not in str(shown_seed(found[0]))
    assert shown_seed(request) == 0


@pytest.mark.parametrize(
    ("secret", "more", "said"),
    [
        (None, (), "--secret-seed: $PABENCH_SECRET_SEED is not set; must have at least 16"),
        ("short", (), "has 5 characters; must have at least 16"),
        (SECRET, ("--seed", "3"), "--seed and --secret-seed: give one of them"),
    ],
)
def test_verdict_secret_seed_is_refused(
    secret: str | None,
    more: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("PABENCH_SECRET_SEED", raising=False)
    if secret is not None:
        monkeypatch.setenv("PABENCH_SECRET_SEED", secret)
    assert run(["conformance", "--secret-seed", "--profile", "quick", "--out", "run", *more]) == 4
    assert said in capsys.readouterr().err
    assert not Path("run").exists()


def test_verdict_of_nothing_says_so() -> None:
    verdict = verdict_of((), profile="quick")
    assert (verdict["passed"], verdict["score"], verdict["causes"]) == (False, 0, [])
    assert verdict["next_step"].startswith("nothing was judged")
