# SPDX-License-Identifier: Apache-2.0
"""What docs/ci.md promises: report, summary, annotations and badge are there, whatever fails."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pabench.report.ci import annotation_lines, badge, summary
from pabench.run.read import read_runs
from tests.house.test_docs import own_kernel
from tests.support.report_data import check, conformance_lines, failed_check, write_run

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs" / "examples" / "ci.sh"
FEW = ["--backend", "my_kernel.py:decode", "--device", "emulated", "--profile", "quick"]
FEW += ["-k", "decode[normal]"]


def recipe(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script of docs/ci.md."""
    return subprocess.run(
        ["sh", str(SCRIPT), *words],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("GITHUB")},
            "PABENCH": f"{sys.executable} -m pabench",
            "PYTHONPATH": str(ROOT),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.slow
def test_ci_recipe_with_a_failing_kernel_leaves_everything_and_exits_1(tmp_path: Path) -> None:
    right = own_kernel()
    (tmp_path / "my_kernel.py").write_text(right, encoding="utf-8")
    done = recipe(tmp_path, *FEW, PABENCH_OUT="main")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "main" / "badge.json").read_text())["message"].startswith("PASS, ")

    # its last key is lost: what the gate, the annotations and the summary are for
    wrong = right.replace(
        "    for i, n in enumerate(kv_lens):\n", "    for i, n in enumerate(kv_lens - (kv_lens > 1)):\n"
    )
    assert wrong != right
    (tmp_path / "my_kernel.py").write_text(wrong, encoding="utf-8")
    job = tmp_path / "job.md"
    done = recipe(
        tmp_path,
        *FEW,
        PABENCH_OUT="branch",
        PABENCH_BASE="main",
        PABENCH_SWEEP="--page-sizes 16 --lengths fixed:len=40 --batch 1 --device emulated",
        GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY=str(job),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAIL  my_kernel.py:decode is wrong: its last key missing" in done.stdout
    line = (
        wrong.splitlines().index(next(text for text in wrong.splitlines() if text.startswith("def decode")))
        + 1
    )
    (error,) = re.findall(r"^::error .*$", done.stdout, re.M)
    assert error.startswith(
        f"::error file=my_kernel.py,line={line},title=pabench::my_kernel.py:decode is wrong: its last key"
    )
    assert "%0Aagain: pabench replay branch/conformance/failures/" in error
    page = (tmp_path / "branch" / "report.html").read_text(encoding="utf-8")
    assert "its last key missing" in page
    assert 'id="sweep"' in page
    said = job.read_text(encoding="utf-8")
    assert said == (tmp_path / "branch" / "summary.md").read_text(encoding="utf-8")
    assert said.startswith("### pabench: FAIL\n")
    assert "pabench compare: WORSE: NEWLY FAILING" in said.replace("\\", "")
    assert json.loads((tmp_path / "branch" / "badge.json").read_text())["color"] == "red"
    assert (tmp_path / "branch" / "junit.xml").is_file()


def test_ci_recipe_of_a_bad_request_has_no_report_and_its_code(tmp_path: Path) -> None:
    done = recipe(tmp_path, "--backend", "absent.py:decode", "--device", "emulated")
    assert done.returncode == 4
    assert "no run was begun, so there is no report" in done.stderr
    assert sorted(path.name for path in (tmp_path / "pabench-ci").iterdir()) == []


def test_ci_annotations_cannot_be_broken_out_of(tmp_path: Path) -> None:
    bad = "x\n::error file=/etc/passwd::gone%0A::set-output name=a::b"
    lines = [failed_check(f"evil,line=9:{bad}.py:f", "append", reason=bad, failure=None)]
    for at in range(15):
        reason = f"ValueError: no {at * 'x'} (k{at}.py:{at + 3} in f)"
        lines.append(failed_check(f"kernels/k{at}.py:f", "append", reason=reason, failure=None))
    # the innermost frame may be one of pabench: the kernel is to blame
    ours = "TypeError: f() takes 5 arguments (function.py:88 in run)"
    lines.insert(1, failed_check("ours.py:f", "append", reason=ours, failure=None))
    lines.insert(2, failed_check("a,line=7.py:f", "append", reason="odd name", failure=None))
    runs = read_runs([write_run(tmp_path / "run", "conformance", lines, exit_code=1)])
    told = annotation_lines(runs).decode().splitlines()
    assert len(told) == 11
    assert all(line.startswith(("::error ", "::notice ")) for line in told)
    assert told[-1] == "::notice title=pabench::8 more causes are in the report"
    assert any("file=kernels/k3.py,line=6,title=pabench::kernels/k3.py:f" in line for line in told)
    assert any(line.startswith("::error file=ours.py,line=1,") for line in told)
    assert any(line.startswith("::error file=a%2Cline=7.py,line=1,") for line in told)
    evil = told[0]
    assert evil.count("::") == 2 + evil.partition("::error ")[2].partition("::")[2].count("::")
    assert "file=/etc" not in evil.partition("title=pabench")[0]


def test_ci_summary_and_badge_of_runs(tmp_path: Path) -> None:
    right = read_runs([write_run(tmp_path / "right", "conformance", conformance_lines())])
    assert (
        summary(right)
        .decode()
        .startswith("### pabench: PASS\n\n20 checks passed over 1,460 generated cases.")
    )
    assert json.loads(badge(right)) == {
        "schemaVersion": 1,
        "label": "pabench",
        "message": "PASS, 20 judged",
        "color": "brightgreen",
    }
    hostile = "a|b<img src=x>\n# head"
    lines = [failed_check(hostile, "append", reason=hostile), check("other", "append")]
    wrong = read_runs([write_run(tmp_path / "wrong", "conformance", lines, exit_code=1)])
    text = summary(wrong).decode()
    assert "<img" not in text
    assert "\n# head" not in text
    (row,) = (line for line in text.splitlines() if line.startswith("| a"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 5
    assert json.loads(badge(wrong))["message"] == "FAIL, 1 of 2 wrong"


def test_ci_action_knows_every_input_that_is_given_to_it() -> None:
    action = (ROOT / "action.yml").read_text(encoding="utf-8")
    inputs = set(re.findall(r"^  (\w+):$", action.partition("\ninputs:")[2].partition("\noutputs:")[0], re.M))
    assert {"args", "sweep", "base", "out", "artifact", "install"} == inputs
    used = set(re.findall(r"\binputs\.(\w+)", action))
    assert used == inputs
    pages = [ROOT / "README.md", ROOT / "docs" / "ci.md", ROOT / ".github" / "workflows" / "ci.yml"]
    for page in pages:
        blocks = re.findall(
            r"uses: (?:OWNER/pabench@main|\./)\n\s+with:\n((?:\s+\w+: .*\n)+)",
            page.read_text(encoding="utf-8"),
        )
        assert blocks, page.name
        for block in blocks:
            assert set(re.findall(r"^\s+(\w+):", block, re.M)) <= inputs
    # whatever an input holds is a value of the environment, and never a part of a script
    scripts = re.findall(r"run: \|\n((?: {8}.*\n)+)|run: (?!\|)(.*)", action)
    assert len(scripts) == 3
    assert not [script for pair in scripts for script in pair if "${{" in script]


def action_steps() -> list[str]:
    """The scripts of action.yml, in their order: install, judge, end."""
    action = (ROOT / "action.yml").read_text(encoding="utf-8")
    found = re.findall(r"run: \|\n((?: {8}.*\n)+)|run: (?!\|)(.*)", action)
    return ["\n".join(line[8:] for line in many.splitlines()) or one for many, one in found]


def act(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a step as GitHub does: bash, ending at the first error."""
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("GITHUB")},
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(folder / "outputs"),
            "PABENCH": f"{sys.executable} -m pabench",
            "PYTHONPATH": str(ROOT),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize(
    ("given", "code", "files"),
    [
        ("--backend absent.py:decode --device emulated", "4", []),
        ("--allocator $(touch${IFS}broken);touch,broken", "4", []),
        pytest.param(" ".join(FEW), "1", ["badge.json", "report.html"], marks=pytest.mark.slow),
    ],
)
def test_ci_action_hands_on_the_code_and_leaves_the_report(
    given: str, code: str, files: list[str], tmp_path: Path
) -> None:
    loop = "    for i, n in enumerate(kv_lens):\n"
    wrong = own_kernel().replace(loop, "    for i, n in enumerate(kv_lens - (kv_lens > 1)):\n")
    (tmp_path / "my_kernel.py").write_text(wrong, encoding="utf-8")
    _, judge, end = action_steps()
    inputs = {"PABENCH_ARGS": given, "PABENCH_SWEEP": "", "PABENCH_BASE": "", "PABENCH_OUT": "out"}
    done = act(judge, tmp_path, **inputs)
    # the step itself never fails, so that the artifact is kept
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs").read_text() == f"code={code}\n"
    assert not (tmp_path / "broken").exists()
    assert set(files) <= {path.name for path in (tmp_path / "out").iterdir()}
    assert act(end, tmp_path, CODE=code).returncode == int(code)
    assert act(end, tmp_path, CODE="0").returncode == 0


PROGRAM = """#!/bin/sh
printf '%s\\n' "$@" >> said
while [ $# -gt 0 ]; do [ "$1" != --out ] || out=$2; shift; done
case $out in */conformance | */sweep) mkdir -p "$out" && echo '{}' > "$out/run.json";; esac
[ "${out##*.}" != md ] || echo summary > "$out"
"""
"""Takes the place of pabench: says what it was given, and begins a run."""


def test_ci_options_are_split_at_spaces_and_name_no_files(tmp_path: Path) -> None:
    """``decode[n]`` is a pattern to a shell, and a file of that name would change what is asked."""
    for name in ("decoden", "a1", "x y"):
        (tmp_path / name).touch()
    program = tmp_path / "program"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    inputs = {"PABENCH_ARGS": "-k decode[n] --backend *.py", "PABENCH_SWEEP": "--lengths a? --batch  1"}
    own = {"PABENCH": str(program), "PABENCH_BASE": "", "PABENCH_OUT": "the out"}
    done = act(action_steps()[1], tmp_path, **inputs, **own)
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "said").read_text().splitlines()
    assert said[:5] == ["conformance", "-k", "decode[n]", "--backend", "*.py"]
    sweep = said[said.index("sweep") :]
    assert sweep[:5] == ["sweep", "--lengths", "a?", "--batch", "1"]
    assert "the out/sweep" in sweep


def test_ci_says_that_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    """A gate that finds no base is open, and says so where the verdict stands."""
    program = tmp_path / "program"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    job = tmp_path / "job.md"
    given = {"PABENCH": str(program), "PABENCH_BASE": "main-run", "GITHUB_STEP_SUMMARY": str(job)}
    done = recipe(tmp_path, **given)
    assert done.returncode == 0, done.stderr
    line = "Nothing to compare this conformance run with: main-run/conformance has no run.json.\n"
    assert done.stderr == line
    assert job.read_text() == f"summary\n{line}"
    assert "compare" not in (tmp_path / "said").read_text().splitlines()
    # nor is what was said of another base said again
    done = recipe(tmp_path, PABENCH=str(program))
    assert (tmp_path / "pabench-ci" / "summary.md").read_text() == "summary\n"


def test_ci_action_installs_what_is_there(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > said\n')
    program.chmod(0o755)
    done = act(action_steps()[0], tmp_path, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "said").read_text().splitlines()
    assert said[:3] == ["-m", "pip", "install"]
    constraints, package = Path(said[said.index("-c") + 1]), Path(said[-1])
    assert constraints.is_file()
    assert (package / "pyproject.toml").is_file()
