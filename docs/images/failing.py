"""Draws failing.svg: what a terminal shows of the README's kernel when it skips the last key."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).resolve().parent
BREAK = ("enumerate(kv_lens):", "enumerate(kv_lens - (kv_lens > 1)):")
COMMAND = "pabench conformance --backend my_kernel.py:decode --profile quick"
WIDTH, LINES = 110, 10


def main() -> None:
    """Run the command in an empty folder and save its first lines."""
    readme = (HERE.parents[1] / "README.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "my_kernel.py").write_text(source.replace(*BREAK), encoding="utf-8")
        words = [sys.executable, "-m", "pabench", *COMMAND.split()[1:], "--out", "run"]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 1:
        raise SystemExit(f"exit code {done.returncode}: {done.stderr}")
    console = Console(record=True, width=WIDTH, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(Text(f"$ {COMMAND}"))
    for line in done.stdout.splitlines()[:LINES]:
        console.print(Text(line, style="bold red" if line.startswith("FAIL") else ""))
    svg = console.export_svg(title="pabench")
    # no font from a network
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.S)
    (HERE / "failing.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
