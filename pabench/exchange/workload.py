"""Workloads of FlashInfer Trace: sizes of a definition's variable axes, and where its inputs come from.

Source: github.com/flashinfer-ai/flashinfer-bench, docs/flashinfer-trace/workload.mdx.  A file has one JSON
object a line: a Workload, or a Trace, whose ``workload`` is one and whose ``definition`` says of what.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from pabench.errors import InvalidCase
from pabench.exchange.json_files import field, parse, read_text
from pabench.exchange.paged import LAST, ROWS, SCALE, TABLE, PagedAttention, used_pages
from pabench.exchange.safetensors import read_tensor
from pabench.problem.batch import Batch
from pabench.problem.case import Case
from pabench.problem.checks import finite_number, whole_number
from pabench.problem.dtypes import DTYPES, Array, encode
from pabench.problem.layout import CsrTable, layout_from_csr
from pabench.problem.recorded import Recording
from pabench.problem.tensors import build_tensors
from pabench.text import shown_path

KINDS = ("random", "scalar", "safetensors")
UUID = re.compile(r"[\w.:-]{1,100}")
MAX_POOL_ELEMENTS = 2**28
"""Elements of a random cache beyond which pages that no sequence uses are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One call.

    Attributes:
        uuid: its id.
        definition: name of what it is a workload of; None where the file does not say.
        axes: sizes of the variable axes.
        inputs: name to ``{"type": "random"}``, ``{"type": "scalar", "value": ...}`` or
            ``{"type": "safetensors", "path": ..., "tensor_key": ...}``.
        case: of a workload of our own, which draws its inputs itself; None of a file's.
    """

    uuid: str
    definition: str | None
    axes: Mapping[str, int]
    inputs: Mapping[str, Mapping[str, Any]]
    case: Case | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON values of the schema."""
        inputs = {name: dict(given) for name, given in self.inputs.items()}
        return {"axes": dict(self.axes), "inputs": inputs, "uuid": self.uuid}


def read_workloads(path: Path) -> list[Workload]:
    """Read a file of workloads, each uuid once.

    Raises:
        UsageError: the file cannot be read, or a line is no JSON object.
        InvalidCase: names line, field and rule.
    """
    found: dict[str, Workload] = {}
    for number, line in enumerate(read_text(path, "workloads").splitlines(), 1):
        if not line.strip():
            continue
        where = f"workloads {shown_path(path)} line {number}"
        workload = _workload(parse(line, where), where)
        if workload.uuid in found:
            raise InvalidCase(f"{where}: uuid", workload.uuid, "must be there once")
        found[workload.uuid] = workload
    if not found:
        raise InvalidCase(f"workloads {shown_path(path)}", "", "must hold at least one line")
    return list(found.values())


def own_workloads(attention: PagedAttention) -> list[Workload]:
    """Return workloads for a definition without any: lengths at the edges of pages, long, and empty."""
    page = attention.shape.page_size
    lengths: tuple[tuple[int, ...], ...] = (
        *((1,), (max(1, page - 1), page, page + 1), (3 * page, 0, 2 * page + 1)),
        *((257, 64, 1, 500), (1025,), tuple(range(1, 34))),
    )
    found = []
    for seed, kv_lens in enumerate(lengths):
        q_lens = tuple(min(length, 1 + 7 * (at % 3)) for at, length in enumerate(kv_lens))
        case = Case(
            problem=attention.problem(),
            batch=Batch(kv_lens=kv_lens, q_lens=q_lens if attention.prefill else None),
            family="normal",
            poison="nan",
            seed=seed,
        )
        found.append(_of_case(attention, case))
    return found


def workload_of(attention: PagedAttention, case: Case, axes: Mapping[str, int]) -> Workload:
    """Return a drawn case as a workload, whose uuid is the id of the case."""
    inputs: dict[str, dict[str, Any]] = {name: {"type": "random"} for name in attention.definition.inputs}
    if SCALE in inputs:
        inputs[SCALE] = {"type": "scalar", "value": case.problem.scale}
    return Workload(
        uuid=case.id, definition=attention.definition.name, axes=dict(axes), inputs=inputs, case=case
    )


def case_of(workload: Workload, attention: PagedAttention, root: Path) -> tuple[Case, Recording | None]:
    """Return the case of a workload, and the recording of its arrays where the file gives them.

    Random inputs are normally distributed; slots that no sequence uses hold NaN.

    Args:
        workload: of the definition.
        attention: the definition.
        root: of the trace set, which paths of safetensors are relative to.

    Raises:
        UsageError: a file is missing or broken.
        InvalidCase: an input that does not fit the definition, the axes or the others.
    """
    if workload.case is not None:
        return workload.case, None
    definition = attention.definition
    where = f"workload {workload.uuid}"
    for axis in definition.variable_axes:
        if axis not in workload.axes:
            raise InvalidCase(f"{where}: axes.{axis}", None, "is missing")
    given: dict[str, Any] = {}
    for name in definition.inputs:
        if name not in workload.inputs:
            raise InvalidCase(f"{where}: inputs.{name}", None, "is missing")
        given[name] = _input(f"{where}: inputs.{name}", name, workload.inputs[name], root)
    for name in (*TABLE, LAST, ROWS):
        if name in given and given[name] is None:
            raise InvalidCase(
                f"{where}: inputs.{name}", "random", "must be safetensors: no random table is one"
            )
    read = {name: value.shape for name, value in given.items() if isinstance(value, np.ndarray)}
    definition.sizes(read, workload.axes)
    random = [name for name in given if given[name] is None]
    seed = int.from_bytes(sha256(workload.uuid.encode()).digest()[:8], "little")
    if random:
        given |= _random(attention, workload, given, random, np.random.default_rng(seed))
    return attention.recorded(given)


def _random(
    attention: PagedAttention,
    workload: Workload,
    given: dict[str, Any],
    names: list[str],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """The random ones of the inputs, and a table of fewer pages where a cache would be too large."""
    definition, dtype = attention.definition, DTYPES[attention.dtype]

    def shape(name: str) -> tuple[int, ...]:
        axes = definition.inputs[name].shape or ()
        return tuple(int(definition.axes[axis] or workload.axes[axis]) for axis in axes)

    caches = [name for name in names if name.endswith("_cache")]
    found: dict[str, Any] = {}
    num_pages = shape(caches[0])[0] if caches else 0
    whole = all(given[name] is None for name in definition.inputs if name.endswith("_cache"))
    if caches and whole and num_pages * math.prod(shape(caches[0])[1:]) > MAX_POOL_ELEMENTS:
        found["kv_indices"] = used_pages({"kv_indices": given["kv_indices"]})["kv_indices"]
        num_pages = int(found["kv_indices"].max(initial=0)) + 1
    live = _live_slots(attention, {**given, **found}, num_pages) if caches else None
    for name in names:
        of_shape = (num_pages, *shape(name)[1:]) if name in caches else shape(name)
        numbers = rng.standard_normal(of_shape)
        if name in caches and live is not None:
            numbers[~live] = np.nan
        found[name] = encode(numbers, dtype)
    return found


def _live_slots(attention: PagedAttention, given: Mapping[str, Any], num_pages: int) -> Array:
    """bool ``(num_pages, page_size)``: slots that a sequence has a token in."""
    size = attention.shape.page_size
    table = CsrTable(
        indptr=given["kv_indptr"], indices=given["kv_indices"], last_page_len=attention.last_page_lens(given)
    )
    layout, kv_lens = layout_from_csr(table, page_size=size, num_pages=num_pages)
    live = np.zeros((num_pages, size), dtype=bool)
    for sequence, kv_len in enumerate(kv_lens):
        at = np.arange(kv_len)
        live[layout.pages(sequence, kv_len)[at // size], at % size] = True
    return live


def _input(where: str, name: str, given: Any, root: Path) -> Any:
    """An input: an array, a number, or None where it is to be random."""
    kind = given.get("type") if isinstance(given, dict) else None
    if kind not in KINDS:
        raise InvalidCase(f"{where}.type", kind, f"must be one of {', '.join(KINDS)}")
    if (kind == "scalar") != (name == SCALE):
        rule = "must be scalar" if name == SCALE else "must be random or safetensors"
        raise InvalidCase(f"{where}.type", kind, rule)
    if kind == "scalar":
        return finite_number(f"{where}.value", given.get("value"))
    if kind == "random":
        return None
    return read_tensor(root / field(where, given, "path", str), field(where, given, "tensor_key", str))


def _of_case(attention: PagedAttention, case: Case) -> Workload:
    return workload_of(attention, case, attention.axes(build_tensors(case)))


def _workload(data: dict[str, Any], where: str) -> Workload:
    definition = field(where, data, "definition", str, default=None)
    if "workload" in data:
        data, where = field(where, data, "workload", dict), f"{where}: workload"
    uuid = field(where, data, "uuid", str)
    if not UUID.fullmatch(uuid):
        raise InvalidCase(
            f"{where}: uuid", uuid, "must be up to 100 letters, digits, dots, colons and dashes"
        )
    axes = field(where, data, "axes", dict)
    return Workload(
        uuid=uuid,
        definition=definition,
        axes={name: whole_number(f"{where}: axes.{name}", size, low=0) for name, size in axes.items()},
        inputs=field(where, data, "inputs", dict),
    )
