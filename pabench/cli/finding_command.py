"""``pabench finding``: an entry of the ledgers as a report for its project."""

from __future__ import annotations

import click

from pabench.console import say


@click.command(name="finding")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """Print the report of a finding in another project: title, version, script, expected, got.

    Without NAME the findings are listed.

    \b
    Examples:
      pabench finding
      pabench finding vllm-block-pool-double-free
    """
    from pabench.checks.upstream import entries, entry_named, report_lines

    if name is None:
        for case, entry in entries().items():
            say(f"{case}  {entry.kind}, {entry.clause}: {entry.reason.partition(':')[0].rstrip('.')}")
        return
    for line in report_lines(entry_named(name)):
        say(line)
