# SPDX-License-Identifier: Apache-2.0
"""A page in headless Chromium, scripts off: boxes, screenshots, prints, audits, by the DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = "no Chromium here: apt-get install chromium"
AXE = "axe_playwright_python"
NO_AXE = f"no axe-core here: pip install --no-deps {AXE.replace('_', '-')}"
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
DEADLINE_S = 120.0
SPILLED = """
[...document.querySelectorAll("body *")].filter(one => {
    const box = one.getBoundingClientRect(), frame = one.parentElement.closest("section, main, body");
    return box.width > 0 && !one.closest("svg svg, svg *")
        && box.right > Math.min(frame.getBoundingClientRect().right, innerWidth) + 1
        && !one.parentElement.closest(".scroll, .tall, pre, [role=region]");
}).map(one => `${one.tagName} ${one.className}: ${one.textContent.slice(0, 60)}`)
"""


def chromium() -> str | None:
    """Return the program, or None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def axe() -> Path | None:
    """Return the script of axe-core, which a package on PyPI carries, or None where that is not installed."""
    found = importlib.util.find_spec(AXE)
    return None if found is None or found.origin is None else Path(found.origin).with_name("axe.min.js")


class Browser:
    """One page of one browser; ``with Browser(...) as page``."""

    def __init__(self, program: str, profile: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")

        def inherit() -> None:
            # the browser reads commands from 3 and writes answers to 4
            os.dup2(ours[0], 3)
            os.dup2(theirs[1], 4)

        # kept away from 3 and 4, which the child overwrites
        ours = (_high(ours[0]), _high(ours[1]))
        theirs = (_high(theirs[0]), _high(theirs[1]))
        self._process = subprocess.Popen(
            [program, *flags, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            preexec_fn=inherit,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._out, self._in, self._rest, self._count = ours[1], theirs[0], b"", 0
        self._session: str | None = None
        targets = self._ask("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self._ask("Page.enable")
        self._ask("Emulation.setScriptExecutionDisabled", value=True)

    def open(self, page: Path, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Show a file in a window of this size and theme."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", media="screen", features=[scheme])
        self._ask("Page.navigate", url=page.resolve().as_uri())
        self._wait("Page.loadEventFired")

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of the first element, in pixels of the page."""
        root = self._ask("DOM.getDocument", depth=0)["root"]["nodeId"]
        node = self._ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        assert node, f"nothing on the page is {selector}"
        quad = self._ask("DOM.getBoxModel", nodeId=node)["model"]["border"]
        return quad[0], quad[1], quad[4], quad[5]

    def size(self) -> tuple[float, float]:
        """Return width and height of the whole page."""
        found = self._ask("Page.getLayoutMetrics")["cssContentSize"]
        return found["width"], found["height"]

    def spilled(self) -> list[str]:
        """Return what stands out of its section or past the window, though nothing there scrolls."""
        return list(self.evaluate(SPILLED))

    def screenshot(self, out: Path, *, height: int | None = None) -> None:
        """Write the page, or its first ``height`` pixels, as PNG."""
        width, whole = self.size()
        clip = {"x": 0, "y": 0, "width": width, "height": height or whole, "scale": 1}
        shot = self._ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        out.write_bytes(base64.b64decode(shot["data"]))

    def printed_pages(self) -> int:
        """Return how many sheets of A4 the page takes."""
        self._ask("Emulation.setEmulatedMedia", media="")
        done = self._ask("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=True)
        return base64.b64decode(done["data"]).count(b"/Type /Page\n")

    def violations(self, script: Path) -> list[str]:
        """Return what axe-core finds against WCAG 2.2 AA and good practice: rule, element and why."""
        self.let_scripts_run(True)
        self.evaluate(script.read_text(encoding="utf-8"))
        asked = f"axe.run({{runOnly: {json.dumps(RULES)}}}).then(found => JSON.stringify(found.violations))"
        violations = json.loads(self.evaluate(asked))
        self.let_scripts_run(False)
        return [
            f"{rule['id']}: {node['html'][:200]}: {node.get('failureSummary')}"
            for rule in violations
            for node in rule["nodes"]
        ]

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, or of its promise; scripts must run for the latter."""
        answer = self._ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def let_scripts_run(self, value: bool) -> None:
        """Let pages opened from now on run their scripts."""
        self._ask("Emulation.setScriptExecutionDisabled", value=not value)

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._in, self._out):
            with contextlib.suppress(OSError):
                os.close(pipe)

    def _ask(self, method: str, **params: Any) -> Any:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        ends_at = time.monotonic() + DEADLINE_S
        while (answer := self._next(ends_at)).get("id") != self._count:
            pass
        assert "error" not in answer, f"{method}: {answer}"
        return answer["result"]

    def _wait(self, event: str) -> None:
        ends_at = time.monotonic() + DEADLINE_S
        while self._next(ends_at).get("method") != event:
            pass

    def _next(self, ends_at: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready = select.select([self._in], [], [], max(0.0, ends_at - time.monotonic()))[0]
            part = os.read(self._in, 2**20) if ready else b""
            assert part, "the browser does not answer"
            self._rest += part
        first, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(first)
        return found


def _high(descriptor: int) -> int:
    import fcntl

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(descriptor)
    return moved


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Open Chromium with a profile of its own; there must be one."""
    program = chromium()
    assert program is not None, MISSING
    page = Browser(program, profile)
    try:
        yield page
    finally:
        page.close()
