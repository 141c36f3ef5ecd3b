# SPDX-License-Identifier: Apache-2.0
"""Draws charts in a process of their own, with a deadline."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pabench.text import one_line

DEADLINE_S = 60.0
"""Of one chart; the first starts the process as well, and a usual one takes 0.1 s."""
CHILD = (sys.executable, "-P", str(Path(__file__).with_name("draw_child.py")))
WHY_LIMIT = 200


class NoCharts(Exception):
    """Charts cannot be drawn; the message says why, and the report goes without them."""


class Drawer:
    """A process that draws, started with the first chart and ended with this one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def svg(self, chart: dict[str, Any]) -> str:
        """Return the SVG of a Vega-Lite chart.

        Raises:
            NoCharts: the process cannot be started, ended, refused the chart or took too long.
        """
        try:
            answer = json.loads(self._ask(json.dumps(chart).encode() + b"\n"))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self.close()
            raise NoCharts(f"they cannot be drawn ({one_line(str(error), WHY_LIMIT)})") from error
        except BaseException:
            # an answer that nobody waited for must not be taken for that of the next chart
            self.close()
            raise
        if "error" in answer:
            raise NoCharts(f"vl-convert refuses one ({one_line(answer['error'], WHY_LIMIT)})")
        return str(answer["svg"])

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _ask(self, line: bytes) -> bytes:
        # a fork has the pipes of its parent's process, not the process
        if self._process is None or self._owner != os.getpid():
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                CHILD,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        process = self._process
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has pipes")
        with contextlib.suppress(BrokenPipeError):  # its end is told below
            process.stdin.write(line)
            process.stdin.flush()
        ends_at, answer = time.monotonic() + DEADLINE_S, b""
        while not answer.endswith(b"\n"):
            left = ends_at - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                self.close()
                raise NoCharts(f"one took longer than {DEADLINE_S:g} s to draw")
            part = os.read(process.stdout.fileno(), 2**16)
            if not part:
                raise NoCharts(f"the process that draws them {_ending(process.wait())}")
            answer += part
        return answer


def _ending(code: int) -> str:
    if code >= 0:
        return f"exited with status {code}"
    return f"was ended by {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"ended ({code})"


_drawer = Drawer()
atexit.register(_drawer.close)


def draw_svg(chart: dict[str, Any]) -> str:
    """Return the SVG of a Vega-Lite chart, drawn by this process's drawer; raises ``NoCharts``."""
    return _drawer.svg(chart)
