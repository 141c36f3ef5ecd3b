# SPDX-License-Identifier: Apache-2.0
"""``pabench finding``: an entry of the ledgers as a report for its project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pabench.cli.stamp import check_json, json_option, write_json
from pabench.console import say

if TYPE_CHECKING:
    from pabench.checks.ledger import Deviation


@click.command(name="finding")
@click.argument("name", required=False)
@json_option("the findings")
def command(name: str | None, json_file: Path | None) -> None:
    """Print the report of a finding in another project: title, version, script, expected, got.

    Without NAME the findings are listed.

    \b
    Examples:
      pabench finding
      pabench finding vllm-block-pool-double-free
      pabench finding --json findings.json
    """
    from pabench.checks.upstream import entries, entry_named, report_lines

    check_json(json_file)
    if name is None:
        write_json(json_file, "finding", {"findings": [_fields(one) for one in entries().values()]})
        for case, entry in entries().items():
            say(f"{case}  {entry.kind}, {entry.clause}: {entry.reason.partition(': ')[0].rstrip('.')}")
        return
    entry = entry_named(name)
    write_json(json_file, "finding", {"findings": [_fields(entry)]})
    for line in report_lines(entry):
        say(line)


def _fields(entry: Deviation) -> dict[str, Any]:
    from pabench.checks.upstream import script_of

    same = ("name", "case", "kind", "clause", "adapter", "first", "last", "mode")
    told = {field: getattr(entry, field) for field in (*same, "reason", "promise", "upstream")}
    return {**told, "script": script_of(entry)}
