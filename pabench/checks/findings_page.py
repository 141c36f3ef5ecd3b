# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/findings.md: the ledgers as Markdown, defects apart from conventions."""

from __future__ import annotations

from collections.abc import Sequence

from pabench.checks.ledger import KINDS, Deviation, shipped_ledger
from pabench.subjects.registry import known

COLUMNS = ("package", "adapter", "deviation", "clause", "the package says", "upstream", "case")
TITLES = {"vllm": "vLLM", "sglang": "SGLang", "jax": "JAX", "triton": "Triton"}
"""Distribution to its name in prose, where that is another one."""
BEGIN, END = "<!-- {}: generated -->", "<!-- end of {} -->"


def findings_table(entries: Sequence[Deviation]) -> str:
    """Return entries of a ledger as a Markdown table, in their order."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|"]
    for entry in entries:
        mode = f", {entry.mode}" if entry.mode else ""
        name = (
            entry.upstream.removeprefix("https://github.com/").replace("/issues/", "#").replace("/pull/", "#")
        )
        cells = (
            f"{_title(entry)} {entry.last}{mode}",
            f"`{entry.adapter}`",
            entry.reason,
            entry.clause,
            entry.promise,
            f"[{name}]({entry.upstream})" if entry.upstream else "",
            f"[{entry.case}](../suites/findings/{entry.case}/verdict.txt)",
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def generated_parts() -> dict[str, str]:
    """Return what stands between the marks of the page: mark to table."""
    return {
        f"{subject_kind} {kind}s": findings_table(
            [entry for entry in shipped_ledger(subject_kind) if entry.kind == kind]
        )
        for subject_kind in ("allocator", "backend")
        for kind in KINDS
    }


def renewed(page: str) -> str:
    """Return the page with its generated parts made anew; raises ``ValueError`` where a mark is missing."""
    for name, table in generated_parts().items():
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"no {begin} ... {end}")
        page = f"{before}{begin}\n\n{table}\n\n{end}{after}"
    return page


def _title(entry: Deviation) -> str:
    name = known(entry.subject_kind)[entry.adapter].package or entry.adapter
    return TITLES.get(name, name)
