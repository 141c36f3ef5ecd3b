# SPDX-License-Identifier: Apache-2.0
"""Draws docs/images anew: ``make images``, which needs Chromium.  Runs pabench, then shoots its pages."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.browser import MISSING, browser, chromium

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"
WIDTH, HEIGHT = 1440, 900
SHOTS = {
    "report": "sweep --page-sizes 8,16,32,64 --lengths azure-conv --lengths lognormal:mean=1024,cv=1 "
    "--lengths fixed:len=1024 --batch 1,8 --device emulated",
    "failure": "conformance --backend my_kernel.py:decode --profile quick -k decode --device emulated",
}
"""Picture to the command whose page it shows."""


def main() -> int:
    """Write the pictures; 0, or 7 where there is no browser."""
    if chromium() is None:
        sys.stderr.write(f"{MISSING}\n")
        return 7
    from tests.house.test_docs import own_kernel

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wrong = own_kernel().replace("in enumerate(kv_lens):", "in enumerate(kv_lens - (kv_lens > 1)):")
        (folder / "my_kernel.py").write_text(wrong, encoding="utf-8")
        for picture, words in SHOTS.items():
            command = [sys.executable, "-m", "pabench", *words.split(), "--out", picture]
            subprocess.run(
                command, cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, check=False
            )
        with browser(folder / "profile") as page:
            for picture in SHOTS:
                page.open(folder / picture / "report.html", width=WIDTH, height=HEIGHT)
                page.screenshot(IMAGES / f"{picture}.png", height=HEIGHT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
