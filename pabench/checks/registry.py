"""The checks by name, for the suite, the report and ``pabench replay``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pabench.checks import attention_checks as attention
from pabench.checks.allocator_checks import ALLOCATOR_CHECKS
from pabench.checks.append_checks import check_append, check_append_e4m3, check_append_paged
from pabench.checks.copy_checks import check_copy
from pabench.checks.gather_checks import check_gather
from pabench.checks.guarded import check_guard
from pabench.checks.merge_checks import check_merge, check_merge_empty
from pabench.checks.outcome import Outcome
from pabench.checks.part_checks import check_parts
from pabench.checks.plan_checks import check_launch_limits, check_plans, check_replay
from pabench.checks.reject_checks import check_append_reject, check_reject
from pabench.checks.relation_checks import RELATIONS
from pabench.device.base import Device
from pabench.errors import UnknownName
from pabench.subjects.backends.base import Backend

BackendCheck = Callable[[Any, Backend, Device], Outcome]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A named property of a backend.

    Attributes:
        id: name in reports and on the command line.
        operation: what the backend must offer, of ``Capabilities.operations``.
        run: the property itself.
        kind: of case that it takes, of ``READERS`` in ``case_files.py``.
    """

    id: str
    operation: str
    run: BackendCheck
    kind: str = "attention"

    @property
    def about(self) -> str:
        """The property in one sentence: the first line of the check's docstring."""
        described = getattr(self.run, "about", None) or self.run.__doc__ or self.id
        return str(described).splitlines()[0]


CHECKS = {
    check.id: check
    for check in (
        Check(id="decode", operation="decode", run=attention.check_decode),
        Check(id="prefill", operation="prefill", run=attention.check_decode),
        Check(id="poison", operation="decode", run=attention.check_poison),
        Check(id="table-tail", operation="decode", run=attention.check_table_tail),
        Check(id="placement", operation="decode", run=attention.check_placement),
        Check(id="shared-prefix", operation="decode", run=attention.check_shared_prefix),
        Check(id="views", operation="decode", run=attention.check_views),
        Check(id="empty", operation="decode", run=attention.check_empty),
        Check(id="repeat", operation="decode", run=attention.check_repeat),
        Check(id="reject", operation="decode", run=check_reject),
        Check(id="guard", operation="decode", run=check_guard),
        Check(id="plans", operation="decode", run=check_plans),
        Check(id="replay", operation="replay", run=check_replay),
        Check(id="launch-limits", operation="decode", run=check_launch_limits),
        Check(id="speculative", operation="speculative", run=attention.check_speculative),
        Check(id="append-reject", operation="append", run=check_append_reject, kind="append"),
        *(Check(id=name, operation=relation.operation, run=relation) for name, relation in RELATIONS.items()),
        Check(id="append", operation="append", run=check_append, kind="append"),
        Check(id="append-e4m3", operation="append-e4m3", run=check_append_e4m3, kind="append"),
        Check(id="copy-pages", operation="copy-pages", run=check_copy, kind="append"),
        Check(id="gather", operation="gather", run=check_gather),
        Check(id="merge", operation="merge", run=check_merge, kind="merge"),
        Check(id="merge-empty", operation="merge", run=check_merge_empty, kind="merge"),
        Check(id="parts", operation="merge", run=check_parts),
        Check(id="append-paged", operation="append-paged", run=check_append_paged, kind="append"),
    )
}


def check_by_id(name: str) -> Check:
    """Return a backend check; raises ``UnknownName``."""
    if name not in CHECKS:
        raise UnknownName("check", name, [*CHECKS, *ALLOCATOR_CHECKS])
    return CHECKS[name]
