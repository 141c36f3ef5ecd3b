# SPDX-License-Identifier: Apache-2.0
"""The process that draws: one Vega-Lite chart a line of standard input, one answer a line of standard output.

Run as a file by ``drawing.py``; it imports nothing of pabench.  V8, which draws, ends its process where
memory or descriptors are short: here that costs the charts, not the report.
"""

from __future__ import annotations

import json
import os
import resource
import sys


def serve() -> None:
    """Draw until standard input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    # whatever the drawing program prints must not be taken for an answer
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        import vl_convert

        for line in sys.stdin:
            try:
                answer = {"svg": str(vl_convert.vegalite_to_svg(line))}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    serve()
