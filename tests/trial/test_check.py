# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ctypes
import gc
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pabench
from pabench.cli.main import run
from pabench.errors import UnknownName, UsageError

ONE = "decode[normal]"
Answer = tuple[Any, Any]


def right(
    q: Any, k_cache: Any, v_cache: Any, block_table: Any, kv_lens: Any, sm_scale: Any, *, drop: int = 0
) -> Answer:
    """Decode in float64; ``drop`` leaves out so many of the last keys."""
    out, lse = np.zeros_like(q), np.full(q.shape[:2], -np.inf, np.float32)
    group = q.shape[1] // k_cache.shape[2]
    for i, length in enumerate(kv_lens):
        n = max(0, int(length) - drop)
        pages = block_table[i, : -(-n // k_cache.shape[1])]
        k, v = (np.float64(c[pages]).reshape(-1, *c.shape[2:])[:n] for c in (k_cache, v_cache))
        for h in range(q.shape[1] if n else 0):
            logits = k[:, h // group] @ np.float64(q[i, h]) * sm_scale
            weights = np.exp(logits - logits.max())
            out[i, h] = weights @ v[:, h // group] / weights.sum()
            lse[i, h] = logits.max() + np.log(weights.sum())
    return out, lse


def without_the_last_key(*arguments: Any) -> Answer:
    return right(*arguments, drop=1)


def test_check_of_a_right_function() -> None:
    found = pabench.check(right, only=ONE)
    assert found.passed
    assert bool(found)
    assert str(found).startswith("PASS right: 1 checks, ")
    frame = found.to_frame()
    assert list(frame["status"]) == ["passed"]
    assert not found.causes


def test_check_of_one_fault_is_one_cause(tmp_path: Path) -> None:
    found = pabench.check(without_the_last_key, only="decode[*], batch, repeat, reject", out=tmp_path / "run")
    assert not found
    assert found.exit_code == 1
    (cause,) = found.causes
    assert cause.words.startswith("its last key missing")
    assert len(cause.checks) > 15
    first = str(found).splitlines()[0]
    assert first.startswith("FAIL its last key missing")
    assert "its last key missing" in found._repr_html_()
    assert (found.run / "report.html").is_file()
    page = (found.run / "report.html").read_text()
    assert page.index("its last key missing") < page.index('id="conformance"')


def test_check_keeps_a_folder_for_failing_cases_alone(temporary: Path) -> None:
    """A right kernel's run goes with its result, a refused call leaves nothing, a failing case is named."""
    found = pabench.check(right, only=ONE)
    assert found.run.parent.parent == temporary
    assert found.to_frame()["status"].tolist() == ["passed"]
    if os.fork() == 0:  # as a pool of workers would
        del found
        gc.collect()
        os._exit(0)
    os.wait()
    assert (found.run / "report.html").is_file()
    del found
    gc.collect()
    assert not list(temporary.iterdir())
    for refused in ({"only": "decod"}, {"deadline_s": 0}, {"dtype": "float16"}, {"dtypes": "float16"}):
        with pytest.raises(UsageError):
            pabench.check(right, **refused)
    assert not list(temporary.iterdir())
    said = str(pabench.check(without_the_last_key, only=ONE))
    gc.collect()
    [folder] = temporary.iterdir()
    [case] = (folder / "run" / "failures").iterdir()
    assert f"again: pabench replay {case} --backend" in said
    words = shlex.split(said.partition("again: pabench ")[2].splitlines()[0])
    assert run(words) == 1
    assert run([*words[:-1], "FILE.py:kernel"]) == 4


def test_check_interrupted_or_hung_leaves_no_folder(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = pabench.check(lambda *given: time.sleep(600), only=ONE, deadline_s=1)
    assert "hung" in str(found)
    del found
    gc.collect()
    assert not list(temporary.iterdir())

    def interrupted(*given: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("pabench.trial.check._apart", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pabench.check(right, only=ONE)
    assert not list(temporary.iterdir())


def test_check_of_lambdas_and_objects() -> None:
    class Callable:
        def __call__(self, *arguments: Any) -> Answer:
            return right(*arguments)

    for function in (lambda *arguments: right(*arguments), Callable()):
        found = pabench.check(function, only=ONE)
        assert found.passed, found
        assert found.subject == "kernel"


def test_check_of_a_torch_function() -> None:
    torch = pytest.importorskip("torch")

    def decode(q: Any, k_cache: Any, *rest: Any) -> Any:
        assert all(isinstance(one, torch.Tensor) for one in (q, k_cache, *rest[:-1]))
        return [torch.from_numpy(one) for one in right(*(np.asarray(one) for one in (q, k_cache, *rest)))]

    assert pabench.check(decode, only=ONE, arrays="torch").passed
    decode.__annotations__["q"] = torch.Tensor
    found = pabench.check(decode, only=ONE)
    assert found.passed, found.output


@pytest.mark.slow
def test_check_of_a_torch_function_with_features() -> None:
    """A window and a soft cap, by the names of its parameters; what is planted in it has its cause named."""
    torch = pytest.importorskip("torch")

    def decode(
        q: Any, k: Any, v: Any, table: Any, lens: Any, scale: float, *, window: Any, soft_cap: Any
    ) -> Any:
        out, lse = torch.zeros_like(q), torch.full(q.shape[:2], -torch.inf)
        for i, n in enumerate(lens.tolist()):
            pages = table[i, : -(-n // k.shape[1])].long()
            first = 0 if window is None else max(0, n - window + short)
            group = q.shape[1] // k.shape[2]
            keys, values = (
                cache[pages].flatten(0, 1)[first:n].repeat_interleave(group, 1).double() for cache in (k, v)
            )
            logits = torch.einsum("hd,nhd->hn", q[i].double(), keys) * scale
            logits = logits if soft_cap is None else soft_cap * torch.tanh(logits / soft_cap)
            if n > first:
                out[i] = torch.einsum("hn,nhd->hd", logits.softmax(1), values).to(q.dtype)
                lse[i] = logits.logsumexp(1)
        return out, lse

    short, only = 0, "decode[window], decode[soft-cap]"
    found = pabench.check(decode, arrays="torch", only=only)
    assert found.passed, found
    assert found.to_frame()["status"].tolist() == ["passed"] * 2
    short = 1
    found = pabench.check(decode, arrays="torch", only=only)
    assert str(found).startswith("FAIL its first key missing"), found


def test_check_takes_what_is_declared() -> None:
    def alone(*arguments: Any) -> Any:
        assert arguments[0].dtype == np.float16
        return right(*arguments)[0]

    found = pabench.check(alone, only=ONE, dtypes=("float16",), lse=False)
    assert found.passed, found
    alone.lse = False  # type: ignore[attr-defined]
    assert pabench.check(alone, only=ONE, dtypes=("float16",)).passed


@pytest.mark.parametrize(
    ("function", "declared", "error", "said"),
    [
        (3, {}, UsageError, "a int is no kernel"),
        (right, {"dtype": "float16"}, UnknownName, "unknown declaration 'dtype'; did you mean 'dtypes'"),
        (right, {"dtypes": "float16"}, UsageError, "dtypes = 'float16'"),
        (right, {"dtypes": ("float128",)}, UsageError, "float128"),
        (right, {"arrays": "jax"}, UsageError, "arrays = 'jax'"),
        (right, {"profile": "swift"}, UsageError, "unknown profile 'swift'"),
        (right, {"only": "decod"}, UsageError, "decod"),
        (right, {"deadline_s": 0}, UsageError, "deadline_s = 0"),
    ],
)
def test_check_refuses(function: Any, declared: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        pabench.check(function, **{"only": ONE, **declared})


def test_check_tells_what_a_function_raises() -> None:
    def decode(q: Any, *rest: Any) -> Any:
        raise RuntimeError("no such kernel")

    found = pabench.check(decode, only=ONE)
    assert found.exit_code == 1
    assert "no such kernel" in str(found).splitlines()[0]


def test_check_outlives_a_crash_and_a_hang() -> None:
    def crash(*arguments: Any) -> Any:
        ctypes.string_at(0)

    found = pabench.check(crash, only=ONE)
    assert not found
    assert "SIGSEGV" in str(found)

    def hang(*arguments: Any) -> Any:
        time.sleep(600)

    found = pabench.check(hang, only=ONE, deadline_s=5)
    assert not found
    assert "no check ended within 5 s" in str(found)


def test_check_leaves_this_process_alone(tmp_path: Path) -> None:
    before, modules = dict(os.environ), set(sys.modules)

    def meddle(*arguments: Any) -> Answer:
        os.environ["MEDDLED"] = "1"
        os.chdir("/")
        sys.stdout.write("noise")
        return right(*arguments)

    here = Path.cwd()
    found = pabench.check(meddle, only=ONE)
    assert found.passed
    assert "noise" in found.output
    assert dict(os.environ) == before
    assert Path.cwd() == here
    assert not {name for name in set(sys.modules) - modules if name.startswith("pabench_checked")}


@pytest.mark.slow
def test_check_in_a_script_needs_no_guard(tmp_path: Path, temporary: Path) -> None:
    """A script that judges its own function does not import itself again, and its exit code is its own."""
    script = tmp_path / "mine.py"
    script.write_text(
        "import pabench, sys\n"
        "def decode(*arguments):\n"
        "    return None\n"
        f"found = pabench.check(decode, only={ONE!r})\n"
        "print(found)\n"
        "sys.exit(0 if found else 9)\n"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 9, done.stderr
    assert done.stdout.startswith("FAIL ")
    assert "NoneType" in done.stdout
    assert f"pabench replay {temporary}" in done.stdout
