# SPDX-License-Identifier: Apache-2.0
"""A case: everything that determines one judged computation, small enough for a line of JSON."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from pabench.errors import InvalidCase, UnknownName
from pabench.problem.batch import Batch
from pabench.problem.captured import CAPTURED
from pabench.problem.checks import one_of, whole_number
from pabench.problem.families import FAMILIES
from pabench.problem.forks import Fork, checked_forks
from pabench.problem.identity import content_id
from pabench.problem.masks import Given, plain, read_masks
from pabench.problem.placement import HUGE_POOL, PLACEMENT_NOTES, TABLE_TAILS
from pabench.problem.pool import KV_LAYOUTS, NONE, Gaps, checked_gaps
from pabench.problem.problem import OPTIONAL_FIELDS, Problem
from pabench.problem.recorded import RECORDED
from pabench.problem.scales import Scales, read_scales, scales_of

CASE_SCHEMA = 1
GAPS = ("page_gaps", "row_gaps", "starts")
RARE = frozenset({"shared_prefix", "inputs", "masks", "scales", *GAPS})
"""Fields that JSON leaves out where a case makes no use of them."""
POISONS = ("zero", "nan", "inf", "huge")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A problem, a batch, a layout, an input family and a seed.

    Attributes:
        family: input family, see ``families.py``.
        poison: what fills every slot that no query may read: ``zero``, ``nan``, ``inf`` or ``huge`` (the
            largest finite value).
        placement: physical order of the pages, see ``placement.py``.
        tail: what the unused block-table entries hold.
        spare_pages: pages of the pool that no sequence uses.
        seed: drives every random choice of the tensors, but neither lengths nor shapes.
        shared_prefix: forks ``(sequence, parent, pages)``: the first ``pages`` pages of a sequence are those
            of an earlier one, and hold its tokens.
        inputs: of the family ``captured`` the id of the capture that queries, keys and values are drawn from,
            of ``recorded`` that of the recording whose arrays they are; None of any other.
        page_gaps: elements of others behind each page of K, and of V, as in a pool of several layers.
        row_gaps: likewise behind the numbers of each token and head.
        starts: likewise before the first page of K, and of V.
        scales: of queries, keys and values for each sequence and KV head, see ``scales.py``.
        masks: name and value of each mask beyond the causal flag and the window, see ``masks``.
    """

    problem: Problem
    batch: Batch
    kv_layout: str = "NHD"
    interleaved: bool = False
    family: str = "normal"
    poison: str = "zero"
    placement: str = "shuffled"
    tail: str = "minus-one"
    spare_pages: int = 0
    seed: int = 0
    shared_prefix: tuple[Fork, ...] = ()
    inputs: str | None = None
    page_gaps: tuple[int, int] = NONE
    row_gaps: tuple[int, int] = NONE
    starts: tuple[int, int] = NONE
    masks: Given = ()
    scales: Scales = ()

    def __post_init__(self) -> None:
        one_of("kv_layout", self.kv_layout, KV_LAYOUTS)
        one_of("poison", self.poison, POISONS)
        one_of("placement", self.placement, PLACEMENT_NOTES)
        one_of("tail", self.tail, TABLE_TAILS)
        if not isinstance(self.interleaved, bool):
            raise InvalidCase("interleaved", self.interleaved, "must be true or false")
        named = (*FAMILIES, CAPTURED, RECORDED)
        if not isinstance(self.family, str) or self.family not in named:
            raise UnknownName("input family", str(self.family), named)
        if (self.family in (CAPTURED, RECORDED)) != isinstance(self.inputs, str):
            rule = f"must name the inputs of family {CAPTURED!r} or {RECORDED!r}, and be None with any other"
            raise InvalidCase("inputs", self.inputs, rule)
        # stored as plain integers, so that a case built with numpy's writes the same JSON
        object.__setattr__(self, "spare_pages", whole_number("spare_pages", self.spare_pages, low=0))
        object.__setattr__(self, "seed", whole_number("seed", self.seed, low=0, high=2**64 - 1))
        forks = checked_forks(self.shared_prefix, self.batch.kv_lens, self.problem.page_size)
        object.__setattr__(self, "shared_prefix", forks)
        object.__setattr__(self, "scales", read_scales(self.scales, self.problem, self.batch))
        object.__setattr__(self, "masks", read_masks(self.masks, self.problem, self.batch))
        gaps = checked_gaps(self.problem, self.interleaved, self.gaps)
        for field, pair in zip(GAPS, (gaps.pages, gaps.rows, gaps.starts), strict=True):
            object.__setattr__(self, field, pair)

    def scales_of(self, kind: str, sequence: int) -> tuple[float, ...]:
        """Return what stored queries (``q``), keys (``k``) or values (``v``) of each KV head stand for."""
        return scales_of(self.scales, self.problem, kind, sequence)

    @property
    def gaps(self) -> Gaps:
        """What lies between the pages and rows of the cache."""
        return Gaps(pages=self.page_gaps, rows=self.row_gaps, starts=self.starts)

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON: equal cases have equal ids."""
        return content_id(self.to_dict())

    @property
    def features(self) -> frozenset[str]:
        """What a backend must have for this case; ``non-causal`` shows with several query rows only."""
        asked = self.problem.features | self.gaps.features | {name for name, _ in self.masks}
        asked |= {"sequence-scales"} if self.scales else set()
        return asked - {"non-causal"} if self.batch.is_decode else asked

    def to_dict(self) -> dict[str, Any]:
        """Return the case as plain JSON values; ``case_from_dict`` reads them back.

        A case that makes no use of a rare field does not have it, and keeps its id.
        """
        found: dict[str, Any] = {
            "schema": CASE_SCHEMA,
            "problem": self.problem.to_dict(),
            "kv_lens": list(self.batch.kv_lens),
            "q_lens": list(self.batch.query_lens),
            "kv_layout": self.kv_layout,
            "interleaved": self.interleaved,
            "family": self.family,
            "poison": self.poison,
            "placement": self.placement,
            "tail": self.tail,
            "spare_pages": self.spare_pages,
            "seed": self.seed,
        }
        if self.shared_prefix:
            found["shared_prefix"] = [list(fork) for fork in self.shared_prefix]
        if self.inputs is not None:
            found["inputs"] = self.inputs
        found |= {field: list(getattr(self, field)) for field in GAPS if any(getattr(self, field))}
        if self.scales:
            found["scales"] = {kind: [list(row) for row in rows] for kind, rows in self.scales}
        if self.masks:
            found["masks"] = {name: plain(value) for name, value in self.masks}
        return found


def case_from_dict(data: Any) -> Case:
    """Read ``Case.to_dict`` back; raises ``InvalidCase`` naming the field that is missing, extra or wrong."""
    if isinstance(data, dict) and data.get("schema") != CASE_SCHEMA:
        raise InvalidCase("case.schema", data.get("schema"), f"this version reads schema {CASE_SCHEMA}")
    names = {field.name for field in fields(Case)} - {"batch"}
    rest = _exactly("case", data, {"schema", "kv_lens", "q_lens", *names}, optional=RARE)
    asked = {field.name for field in fields(Problem)}
    problem = _exactly("case.problem", rest.pop("problem"), asked, optional=OPTIONAL_FIELDS)
    batch = Batch(kv_lens=rest.pop("kv_lens"), q_lens=rest.pop("q_lens"))
    del rest["schema"]
    if rest["placement"] == "vast":  # its name in older files
        rest["placement"] = HUGE_POOL
    return Case(problem=Problem(**problem), batch=batch, **rest)


def _exactly(
    what: str, data: Any, names: set[str], *, optional: frozenset[str] = frozenset()
) -> dict[str, Any]:
    """A copy of ``data``, a JSON object of just these fields, of which ``optional`` ones may be missing."""
    if not isinstance(data, dict):
        raise InvalidCase(what, data, "must be a JSON object")
    for name in sorted(names - optional - data.keys()):
        raise InvalidCase(what, sorted(data), f"has no field {name!r}")
    for name in sorted(data.keys() - names):
        raise InvalidCase(what, sorted(data), f"has an unknown field {name!r}")
    return dict(data)
