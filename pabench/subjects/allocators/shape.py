# SPDX-License-Identifier: Apache-2.0
"""Sizes of a pool and of the table of those who have its pages."""

from __future__ import annotations

from dataclasses import dataclass, fields

from pabench.errors import InvalidCase
from pabench.problem.checks import whole_number
from pabench.subjects.allocators.groups import KvGroup, checked_groups


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolShape:
    """Sizes that an allocator is made for.

    Attributes:
        num_pages: pages that can be granted.
        page_size: tokens of one page.
        max_seqs: sequences that can be live or swapped out at once.
        max_pages_per_seq: columns of the block table.
        swap_pages: pages of the store that swapped-out sequences go to.
        reserve_pages: watermark; starting, adopting or swapping in a sequence leaves at least this many pages
            available, so that those that run can grow.
        hash_bits: how much of a prefix hash is used, 1 to 64; few bits make unlike prefixes collide, which
            must not show.
        host_pages: pages of the lower tier, to which cached pages move down; none where there are groups.
        groups: KV groups that share the pool, each with ``max_pages_per_seq`` columns of its own, one behind
            the other.  Their page sizes divide ``page_size``, at whose multiples hits end.  None stands for
            one group of kind ``full``.
    """

    num_pages: int
    page_size: int
    max_seqs: int
    max_pages_per_seq: int
    swap_pages: int = 0
    reserve_pages: int = 0
    hash_bits: int = 64
    host_pages: int = 0
    groups: tuple[KvGroup, ...] = ()

    def __post_init__(self) -> None:
        limits = {"num_pages": (1, 2**30), "swap_pages": (0, 2**30), "reserve_pages": (0, 2**30)}
        limits |= {"hash_bits": (1, 64), "host_pages": (0, 2**30)}
        for field in fields(self):
            if field.name == "groups":
                continue
            low, high = limits.get(field.name, (1, 2**31 - 1))
            number = whole_number(field.name, getattr(self, field.name), low=low, high=high)
            object.__setattr__(self, field.name, number)
        object.__setattr__(self, "groups", checked_groups(self.groups, self.page_size))
        if self.groups and self.host_pages:
            raise InvalidCase("host_pages", self.host_pages, "must be 0 where there are groups")

    @property
    def kv_groups(self) -> tuple[KvGroup, ...]:
        """The groups, one of kind ``full`` where none is named."""
        return self.groups or (KvGroup(page_size=self.page_size),)

    @property
    def columns(self) -> int:
        """Columns of the block table: those of all groups."""
        return self.max_pages_per_seq * max(1, len(self.groups))

    @property
    def block_pages(self) -> int:
        """Pages that ``page_size`` tokens take, in all groups together."""
        return sum(self.page_size // group.page_size for group in self.kv_groups)

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest sequence that a row of the table holds; lengths are int32 on a device."""
        smallest = min((group.page_size for group in self.groups), default=self.page_size)
        return min(self.max_pages_per_seq * smallest, 2**31 - 1)
