# SPDX-License-Identifier: Apache-2.0
"""Reports of findings: each is whole, and each script shows its defect where its package is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pabench.checks.failures import load_case
from pabench.checks.upstream import SCRIPT, entries, script_of
from pabench.cli.main import run
from pabench.errors import Unsupported
from pabench.subjects.registry import known

SCRIPTED = {name: entry for name, entry in entries().items() if script_of(entry) is not None}
# the package without its dependencies: what it imports and does not use is replaced while it is imported; a
# case that was saved as compiled code is shown as such, FlashInfer's with its Python interface replaced
DRIVER = """
import runpy, sys
from contextlib import nullcontext
from types import SimpleNamespace
from pabench.subjects.registry import known
kind, adapter, script, device = sys.argv[1:]
launching = nullcontext()
if adapter.startswith("flashinfer"):
    from pabench.device.registry import open_device
    from tests.support.flashinfer_host import flashinfer_host
    sys.modules["flashinfer"] = flashinfer_host(open_device(device))
    runpy.run_path(script)
    raise SystemExit("nothing was asserted")
if device.startswith("ptx"):
    from pabench.device.registry import open_device
    from pabench.subjects.backends.adapters.triton_host import triton_host
    launching = triton_host(adapter, open_device(device)).launching()
with launching:
    first, *others = known(kind)[adapter].peers
    for peer in (*others, first):
        modules = peer.load()
        if peer.stays:
            sys.path.append(str(peer.find().folder))
            continue
        sys.modules.update(modules)
        for name in modules:
            for depth in range(1, name.count(".") + 1):
                package = ".".join(name.split(".")[:depth])
                sys.modules.setdefault(package, type(sys)(package)).__path__ = []
    # asked by a kernel's caller for one of another vendor
    asked = SimpleNamespace(use_rocm_custom_paged_attention=lambda *asked: False)
    sys.modules.setdefault("vllm.platforms", type(sys)("vllm.platforms"))
    sys.modules.setdefault("vllm.platforms.rocm", asked)
    runpy.run_path(script)
"""


@pytest.mark.parametrize("name", entries())
def test_reports_are_whole(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["finding", name]) == 0
    said = capsys.readouterr().out
    entry = entries()[name]
    assert said.startswith("# ")
    assert entry.last in said
    assert entry.reason in said
    assert f"pabench replay suites/findings/{name}" in said
    assert ("```python" in said) == (script_of(entry) is not None)


@pytest.mark.parametrize("name", SCRIPTED)
def test_scripts_are_short_and_need_the_package_alone(name: str) -> None:
    text = script_of(SCRIPTED[name])
    assert text is not None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith('"""')]
    assert len(lines) <= 11
    assert "pabench" not in text
    assert "assert " in lines[-1]


@pytest.mark.parametrize("name", SCRIPTED)
def test_scripts_show_their_defect(name: str, tmp_path: Path) -> None:
    entry = SCRIPTED[name]
    device = load_case(entry.folder).device
    try:
        known(entry.subject_kind)[entry.adapter].check(entry.adapter, device)
    except Unsupported as lacking:
        pytest.skip(str(lacking))
    told = [entry.subject_kind, entry.adapter, str(entry.folder / SCRIPT), device]
    words = [sys.executable, "-c", DRIVER, *told]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "TRITON_INTERPRET": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert "AssertionError: got " in done.stderr, done.stdout + done.stderr


def test_each_defect_has_a_script() -> None:
    assert [
        name for name, entry in entries().items() if entry.kind == "defect" and name not in SCRIPTED
    ] == []


def test_findings_are_listed_and_unknown_ones_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["finding"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(entries())
    # cut at the end of a clause, not in one
    assert all(line.count("(") == line.count(")") for line in listed)
    assert run(["finding", "vllm-block-pool-double-fre"]) == 4
    assert "did you mean 'vllm-block-pool-double-free'" in capsys.readouterr().err
