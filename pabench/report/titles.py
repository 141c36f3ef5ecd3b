# SPDX-License-Identifier: Apache-2.0
"""What a line of a journal is about, in words."""

from __future__ import annotations

from pabench.report.source import Line


def line_title(line: Line) -> str:
    """Return what a line is about: a check, a stress cell, a cell, an operation, a server or a model."""
    data = line.data
    if data["kind"] in ("conformance", "stress"):
        return f"{data['subject']} on {data['device']}: {data['check']}"
    if data["kind"] == "serving":
        return f"{data['allocator']} under {data['scheduler']}, page size {data['page_size']}"
    if data["kind"] == "model":
        return f"{data['model']} through {data['subject']}, page size {data['page_size']}"
    if data["kind"] == "sweep":
        return f"{data['backend']} on {data['device']}: cell {cell_title(line)}"
    if data["kind"] == "operation":
        return f"{data['label']} on {data['device']}"
    return f"{data['subject']}: {data['label']}"


def cell_title(line: Line) -> str:
    """Return a cell in words, ``page size 16, fixed:len=1024, batch 8``."""
    data = line.data
    return f"page size {data['page_size']}, {data['lengths']}, batch {data['batch']}"
