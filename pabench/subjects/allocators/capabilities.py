# SPDX-License-Identifier: Apache-2.0
"""What an allocator declares of itself; the suite holds it to that and skips what it does not offer."""

from __future__ import annotations

from dataclasses import dataclass

from pabench.errors import InvalidCase
from pabench.problem.checks import one_of, whole_number
from pabench.subjects.allocators.groups import GROUP_KINDS

TIER_OPERATIONS = ("move_down", "load", "end_copy", "pin", "unpin")
RETENTION_OPERATIONS = ("retain", "pass_time")
OPERATIONS = (
    *("alloc", "append", "append_batch", "fork", "truncate", "free", "free_window"),
    *("commit", "lookup", "adopt", "evict", "swap_out", "swap_in", "reset"),
    *("begin_step", "end_step", "defragment"),
    *(*TIER_OPERATIONS, *RETENTION_OPERATIONS),
)
ORDERS = ("fifo", "sequence", "set")
DETERMINISM = ("ids", "counts")
BATCH_MODES = ("all", "prefix", "any")
REFUSALS = ("exact", "quiescent", "fragmenting")
RETURNS = ("at-once", "by-itself")
HITS = ("all", "some", "any")
COMMITS = ("kept", "shared")
FORKS = ("shared", "copied")
PROGRESS = ("sequential", "lock-free", "blocking")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The declared behaviour of an allocator.

    Attributes:
        operations: those of ``OPERATIONS`` that are offered; the others raise ``Unsupported``.
        order: which page goes to whom.  ``fifo``: the page that has been free longest, requests of a batch
            in their order, so that ids equal those of the reference model; ``sequence``: the same with every
            batch (also of ``free``) served in order of sequence index; ``set``: any free page.
        determinism: ``ids``: the same history gives the same page ids; ``counts``: the same number of pages.
        batch_mode: what a batch that does not fit ends in.  ``all``: nothing is served and ``OutOfPages``
            raised; ``prefix``: the longest prefix that fits is served; ``any``: a legal subset is.
        refusal: when ``OutOfPages`` may be raised.  ``exact``: only when too few pages are available;
            ``quiescent``: also while another request of the same launch is being refused; ``fragmenting``:
            also when the pages that are free do not lie together.
        returns: when pages that were given back can be granted.  ``at-once``: where no step is in flight, see
            ``begin_step``; ``by-itself``: when the allocator sees fit, at the latest when they are needed.
        progress: ``sequential`` on the host; on a device ``lock-free`` or ``blocking``.
        reserved_pages: ids that are never granted; ids run from 0 to ``num_pages`` plus their number, less 1.
        watermark: whether ``PoolShape.reserve_pages`` is kept.
        images: whether prompts with images are kept apart by them, see ``Prompt``.
        partial: whether a hit goes on within a page, which is copied, see ``Hit.part``.
        duplicates: whether a page is cached whose prefix another cached page holds, see ``commit``.
        hits: what is found of what was committed.  ``all``: whatever was not needed for others, see
            ``evict``; ``some``: that too, until pages run short, and then what the allocator has kept;
            ``any``: what the allocator has kept, from the first on.
        commits: what becomes of a page whose prefix another cached page holds.  ``kept``: the sequence goes
            on with it; ``shared``: the sequence goes on with the cached one, and its own is given back.
        forks: what becomes of a last page with room.  ``shared``: it is copied when one of its holders writes
            to it; ``copied``: at once, so that only full pages have several holders.
        groups: kinds of KV groups that it keeps in one pool; none where it has a single table of full pages.
    """

    operations: frozenset[str]
    order: str = "fifo"
    determinism: str = "ids"
    batch_mode: str = "all"
    refusal: str = "exact"
    returns: str = "at-once"
    progress: str = "sequential"
    reserved_pages: frozenset[int] = frozenset()
    watermark: bool = False
    images: bool = False
    partial: bool = False
    duplicates: bool = False
    hits: str = "all"
    commits: str = "kept"
    forks: str = "shared"
    groups: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for operation in self.operations:
            one_of("operation", operation, OPERATIONS)
        one_of("order", self.order, ORDERS)
        one_of("determinism", self.determinism, DETERMINISM)
        one_of("batch_mode", self.batch_mode, BATCH_MODES)
        one_of("refusal", self.refusal, REFUSALS)
        one_of("returns", self.returns, RETURNS)
        one_of("progress", self.progress, PROGRESS)
        one_of("forks", self.forks, FORKS)
        one_of("hits", self.hits, HITS)
        one_of("commits", self.commits, COMMITS)
        for page in self.reserved_pages:
            whole_number("reserved page", page, low=0)
        for name in ("watermark", "images", "partial", "duplicates"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidCase(name, getattr(self, name), "must be true or false")
        for kind in self.groups:
            one_of("kind of a group", kind, GROUP_KINDS)
        if self.duplicates and (self.partial or self.operations & {*TIER_OPERATIONS, *RETENTION_OPERATIONS}):
            raise InvalidCase("duplicates", True, "goes without partial hits, tiers and priorities")
        if self.hits != "all" and self._plays_with_its_cache:
            rule = "go without evict, defragment, steps, tiers, priorities, partial hits and duplicates"
            raise InvalidCase("hits", self.hits, rule)
        if self.commits == "shared" and (self._plays_with_its_cache - {"evict"} or self.groups):
            rule = "go without defragment, steps, tiers, priorities, partial hits, duplicates and groups"
            raise InvalidCase("commits", self.commits, rule)
        if self.groups and (self.partial or self.forks != "shared"):
            raise InvalidCase("partial hits, copied forks", sorted(self.groups), "go without groups")
        if self.groups and (self.batch_mode, self.order) not in (("all", "fifo"), ("all", "set")):
            # windows of a whole step slide before any of it is served
            rule = "must be mode all, in order fifo or set, where there are groups"
            raise InvalidCase("batches", f"mode {self.batch_mode} in order {self.order}", rule)

    @property
    def _plays_with_its_cache(self) -> frozenset[str]:
        """What it offers that can only be judged by which pages are cached."""
        asked = {"evict", "defragment", "begin_step", *TIER_OPERATIONS, *RETENTION_OPERATIONS}
        more = [name for name in ("partial", "duplicates") if getattr(self, name)]
        return self.operations & asked | {*more}

    @property
    def model_ids(self) -> bool:
        """Whether page ids equal those of the reference model."""
        return self.order != "set" and self.determinism == "ids" and not self.reserved_pages
