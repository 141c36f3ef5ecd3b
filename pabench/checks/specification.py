"""The clauses of docs/specification.md and the checks that test them; profiles and badges over their results.

A test holds this table, the text and the checks in step.  A new check takes a line here and one in the text.
"""

from __future__ import annotations

from dataclasses import dataclass

from pabench.problem.families import FAMILIES

CLAUSES: dict[str, tuple[str, ...]] = {
    "S1": ("decode", "prefill"),
    "S2": ("decode", "views"),
    "S3": ("decode", "placement"),
    "S4": ("decode", "copied-heads"),
    "S5": ("decode", "page-size"),
    "D1": ("decode",),
    "D2": ("decode",),
    "D3": ("empty",),
    "D4": ("poison",),
    "D5": ("table-tail",),
    "D6": ("placement",),
    "D7": ("views",),
    "D8": ("repeat",),
    "D9": ("decode",),
    "D10": ("speculative",),
    "D11": ("shared-prefix",),
    "Q1": ("prefill",),
    "Q2": ("prefill",),
    "Q3": ("empty",),
    "Q4": ("prefill", "poison", "repeat"),
    "Q5": ("chunks",),
    "F1": ("decode", "prefill"),
    "F2": ("decode", "prefill", "poison"),
    "F3": ("decode", "prefill"),
    "F4": ("decode", "prefill", "empty"),
    "F5": ("decode", "prefill"),
    "F6": ("neutral-features",),
    "F7": ("folded-scales",),
    "X1": ("batch",),
    "X2": ("shared-pages",),
    "X3": ("value-scale",),
    "X4": ("value-columns", "head-dims"),
    "X5": ("token-order", "duplicate-keys", "weightless-keys"),
    "X6": ("logit-shift",),
    "A1": ("append",),
    "A2": ("append", "append-e4m3", "append-paged"),
    "A3": ("append-reject",),
    "A4": ("append-e4m3",),
    "A5": ("append-paged",),
    "K1": ("copy-pages",),
    "K2": ("copy-pages",),
    "G1": ("gather",),
    "G2": ("gather",),
    "M1": ("merge",),
    "M2": ("merge-empty",),
    "M3": ("merge",),
    "M4": ("parts",),
    "P1": ("allocator-invariants", "allocator-decode"),
    "P2": ("allocator-invariants",),
    "P3": ("allocator-invariants",),
    "P4": ("allocator-invariants", "allocator-decode"),
    "P5": ("allocator-invariants",),
    "P6": ("allocator-invariants",),
    "P7": ("allocator-invariants",),
    "P8": ("allocator-invariants",),
    "P9": ("allocator-invariants", "allocator-decode"),
    "P10": ("allocator-invariants",),
    "P11": ("allocator-invariants",),
    "P12": ("allocator-invariants",),
    "P13": ("allocator-invariants",),
    "P14": ("allocator-concurrent",),
    "C1": ("reject", "append-reject"),
    "C2": ("launch-limits",),
    "C3": ("guard",),
    "C4": ("plans",),
    "C5": ("decode",),
    "C6": ("replay",),
    "C7": ("decode", "append", "gather", "merge"),
}
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
"""Badges of attention backends; see ``Outcome.lacks`` for what speaks against one."""
