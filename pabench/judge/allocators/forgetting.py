# SPDX-License-Identifier: Apache-2.0
"""Allocators whose cache may forget more than it must: what of it is compared with the model.

Where hits are ``some``, all of it as long as no page was taken from the cache.  From then on, and where they
are ``any``, a hit may be shorter than what was committed, and pages may be free or cached; who holds which,
and how many can be granted, is certain still.
"""

from __future__ import annotations

from pabench.errors import InvalidCase
from pabench.judge.allocators.calls import Refused
from pabench.judge.allocators.model import ModelAllocator
from pabench.subjects.allocators.base import PageAllocator
from pabench.subjects.allocators.results import NULL_PAGE, Hit

PAGE_COUNTS = (
    *("free_pages", "evictable_pages", "returning_pages", "free_swap_pages"),
    *("pinned_pages", "free_host_pages", "cached_host_pages"),
)


def followed(model: ModelAllocator, subject: PageAllocator, hit: Hit) -> Hit | str:
    """Return what a subject has found in pages of the model, or what is wrong with it in words."""
    there, ours = subject.block_table(), model.block_table()
    meaning = dict(zip(there[there != NULL_PAGE].tolist(), ours[there != NULL_PAGE].tolist(), strict=True))
    blocks, odd = divmod(len(hit.pages), subject.shape.block_pages)
    if hit.part or odd:
        return f"lookup found {len(hit.pages)} pages, must find whole blocks of {subject.shape.block_pages}"
    if blocks * subject.shape.page_size >= max(1, len(hit.prompt.tokens)):
        return f"lookup found {len(hit.pages)} pages, must leave the last token to be computed"
    same = model.follow(hit, [page if page == NULL_PAGE else meaning.get(page) for page in hit.pages])
    return f"lookup found pages {[*hit.pages]}, must find what was committed" if same is None else same


def renewed(model: ModelAllocator, subject: PageAllocator, hit: Hit, known: Hit) -> Hit:
    """Return the hit of a subject in pages of the model as they are now, or as they were ``known``."""
    found = followed(model, subject, hit) if model.follows else known
    return found if isinstance(found, Hit) else known


def is_stale(model: ModelAllocator, got: object, *, at_once: bool) -> bool:
    """Whether a subject may refuse a hit as out of date: it was not looked up ``at_once`` before."""
    return model.follows and not at_once and isinstance(got, Refused) and isinstance(got.error, InvalidCase)


def unlike_counts(subject: PageAllocator, model: ModelAllocator) -> str | None:
    """Return the first count of pages that is not the model's, or None; who reserves counts otherwise."""
    if subject.capabilities.refusal == "fragmenting":
        return None
    said = {name: int(getattr(subject, name)) for name in PAGE_COUNTS}
    must = {name: int(getattr(model, name)) for name in PAGE_COUNTS}
    if subject.capabilities.returns == "by-itself":
        said["free_pages"] += said.pop("returning_pages")
    if model.follows:
        cached, most = said.pop("evictable_pages"), must["evictable_pages"]
        if cached > most and subject.capabilities.hits == "some":
            return f"invariant 15: evictable_pages is {cached}, must be at most {most}"
        said["free_pages"] += cached
        must["free_pages"] = model.available_pages
    for name, count in said.items():
        if count != must[name]:
            what = "free_pages and evictable_pages" if model.follows and name == "free_pages" else name
            return f"invariant 15: {what} is {count}, must be {must[name]}"
    return None
