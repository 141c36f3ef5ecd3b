# SPDX-License-Identifier: Apache-2.0
"""An entry of a ledger as a report for its project: what, which version, a script, expected, got."""

from __future__ import annotations

from collections.abc import Iterator

from pabench.checks.ledger import LEDGER_FILES, Deviation, shipped_ledger
from pabench.errors import UnknownName
from pabench.subjects.registry import known

SCRIPT = "upstream.py"
"""In the folder of an entry: needs numpy or torch and the package alone, and ends with an assertion."""
VERDICT = "verdict.txt"


def entries() -> dict[str, Deviation]:
    """Return the entries of all ledgers by the names of their cases, those that have one case once."""
    return {entry.case: entry for kind in LEDGER_FILES for entry in shipped_ledger(kind)}


def entry_named(name: str) -> Deviation:
    """Return an entry by the name of its case, or by its own where that is one entry's alone.

    Raises:
        UnknownName: there is no such entry, or there are several.
    """
    found = entries()
    if name in found:
        return found[name]
    own = [entry for entry in found.values() if entry.name == name]
    if len(own) != 1:
        raise UnknownName("finding", name, found)
    return own[0]


def script_of(entry: Deviation) -> str | None:
    """Return the script of an entry; None where there is none yet."""
    path = entry.folder / SCRIPT
    return path.read_text(encoding="utf-8") if path.is_file() else None


def report_lines(entry: Deviation) -> Iterator[str]:
    """Yield the report as Markdown."""
    package = known(entry.subject_kind)[entry.adapter].package or entry.adapter
    versions = entry.first if entry.first == entry.last else f"{entry.first} to {entry.last}"
    yield f"# {package}: {entry.reason.partition(': ')[0].rstrip('.')}"
    yield ""
    yield f"Version: {package} {versions}{f', {entry.mode}' if entry.mode else ''}"
    yield ""
    yield entry.reason
    yield ""
    yield f"What {package} says: {entry.promise}"
    if entry.upstream:
        yield ""
        yield f"Known as: {entry.upstream}"
    script = script_of(entry)
    if script is not None:
        yield from (
            "",
            "To reproduce, with the package alone; the last line says what was expected and what came:",
        )
        yield from ("", "```python", script.rstrip(), "```")
    verdict = (entry.folder / VERDICT).read_text(encoding="utf-8").splitlines()[0]
    yield from (
        "",
        "Found by pabench, which judges against attention in float64 (clause "
        f"{entry.clause} of its specification):",
        "",
        f"    {verdict}",
    )
    yield from ("", f"    pabench replay suites/findings/{entry.case}")
    if script is None:
        yield from ("", "There is no script without pabench yet.")
