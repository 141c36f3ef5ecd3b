# SPDX-License-Identifier: Apache-2.0
"""The clauses of docs/specification.md and the checks that test them; profiles and badges over their results.

Which checks test a clause is said by the rows of the suite; a test holds them and the text in step.
"""

from __future__ import annotations

from dataclasses import dataclass

from pabench.checks.suite import clause_map
from pabench.problem.families import FAMILIES

CLAUSES = clause_map()
"""Clause to the checks that test it."""

RELATIONS_OF_ALL = (
    "value-scale",
    "value-columns",
    "head-dims",
    "token-order",
    "duplicate-keys",
    "logit-shift",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A part of the specification that a backend may claim.

    Attributes:
        about: what it is, in a few words.
        needs: results that must be there and pass, by name; the name of a check stands for all its results.
        offered: results that must not fail, and may be unsupported.
    """

    about: str
    needs: tuple[str, ...]
    offered: tuple[str, ...] = ()


PROFILES: dict[str, Profile] = {
    "core": Profile(
        about="decode over any pages, lengths and layouts, and the contract",
        needs=(
            *(f"decode[{family}]" for family in FAMILIES),
            *(
                "decode[long]",
                "decode[high-page-ids]",
                "poison",
                "table-tail",
                "placement",
                "empty",
                "repeat",
            ),
            *("page-size", "batch", "weightless-keys", "folded-scales", "plans", "launch-limits", "reject"),
            *RELATIONS_OF_ALL,
        ),
        offered=("views", "neutral-features", "guard"),
    ),
    "gqa": Profile(about="several query heads share a KV head", needs=("copied-heads", "decode[normal]")),
    "prefill": Profile(
        about="several query rows a sequence",
        needs=("prefill[causal]", "speculative", "chunks", "empty[prefill]", "repeat[prefill]"),
        offered=("prefill", "poison[prefill]", "guard[prefill]"),
    ),
    "window": Profile(
        about="sliding window", needs=("decode[window]",), offered=("prefill[window]", "poison")
    ),
    "softcap": Profile(about="soft cap", needs=("decode[soft-cap]",), offered=("prefill[features]",)),
    "alibi": Profile(about="ALiBi", needs=("decode[alibi]",), offered=("prefill[features]",)),
    "sinks": Profile(about="sinks", needs=("decode[sinks]",), offered=("prefill[features]", "empty")),
    "fp8-kv": Profile(
        about="a cache of e4m3 with scales",
        needs=("decode[fp8-kv]",),
        offered=("prefill[fp8-kv]", "prefill[features]", "folded-scales"),
    ),
    "shared-prefix": Profile(
        about="pages in the tables of several sequences",
        needs=("shared-pages", "shared-prefix"),
        offered=("parts",),
    ),
    "graph-capture": Profile(about="replay right after its arrays change in place", needs=("replay",)),
}
"""Profiles of attention backends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Badge:
    """A property beyond what every clause demands, or that several checks together show.

    Attributes:
        about: what it says.
        by: checks that must have run and passed, none of their results speaking against it.
    """

    about: str
    by: tuple[str, ...]


BADGES: dict[str, Badge] = {
    "deterministic": Badge(about="the same call gives the same bits again", by=("repeat",)),
    "batch-invariant": Badge(about="the bits of a sequence do not depend on its batch", by=("batch",)),
    "fixed-split": Badge(
        about="sums are cut at fixed places: weightless keys change no bit", by=("weightless-keys",)
    ),
    "reads-only-what-it-may": Badge(
        about="no byte beyond an array is touched, and no dead slot or table entry is used",
        by=("poison", "table-tail", "guard"),
    ),
}
"""Badges of attention backends; see ``Outcome.missing_badges`` for what speaks against one."""
