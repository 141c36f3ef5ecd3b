# SPDX-License-Identifier: Apache-2.0
"""Workloads of FlashInfer Trace: sizes of a definition's variable axes, and where its inputs come from.

Source: github.com/flashinfer-ai/flashinfer-bench, docs/flashinfer-trace/workload.mdx.  A file has one JSON
object a line: a Workload, or a Trace, whose ``workload`` is one and whose ``definition`` says of what.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from pabench.errors import InvalidCase
from pabench.exchange.json_files import field, parse, read_text
from pabench.exchange.paged import GQA_SCALES, SCALE
from pabench.exchange.safetensors import read_tensor
from pabench.exchange.stated import AnyCase, Stated
from pabench.problem.case import Case
from pabench.problem.checks import finite_number, whole_number
from pabench.problem.recorded import Recording
from pabench.text import shown_path

KINDS = ("random", "scalar", "safetensors")
UUID = re.compile(r"[\w.:-]{1,100}")


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
    case: AnyCase | None = None

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


def own_workloads(stated: Stated) -> list[Workload]:
    """Return workloads for a definition that comes without any."""
    return [workload_of(stated, case, axes) for case, axes in stated.own_calls()]


def workload_of(stated: Stated, case: AnyCase, axes: Mapping[str, int]) -> Workload:
    """Return a drawn case as a workload, whose uuid is the id of the case."""
    inputs: dict[str, dict[str, Any]] = {}
    for name, spec in stated.definition.inputs.items():
        if spec.shape is not None:
            inputs[name] = {"type": "random"}
        elif name == SCALE and isinstance(case, Case):
            inputs[name] = {"type": "scalar", "value": case.problem.scale}
        elif not spec.optional and isinstance(case, Case):
            kind = "v" if name == GQA_SCALES[1] else "k"
            inputs[name] = {"type": "scalar", "value": case.problem.kv_scales(kind)[0]}
    return Workload(
        uuid=case.id, definition=stated.definition.name, axes=dict(axes), inputs=inputs, case=case
    )


def case_of(workload: Workload, stated: Stated, root: Path) -> tuple[AnyCase, Recording | None]:
    """Return the case of a workload, and the recording of its arrays where the file gives them.

    Random inputs are normally distributed; slots that no sequence uses hold NaN.

    Args:
        workload: of the definition.
        stated: what the definition states.
        root: of the trace set, which paths of safetensors are relative to.

    Raises:
        UsageError: a file is missing or broken.
        InvalidCase: an input that does not fit the definition, the axes or the others.
    """
    if workload.case is not None:
        return workload.case, None
    definition = stated.definition
    where = f"workload {workload.uuid}"
    for axis in workload.axes:
        if axis not in definition.variable_axes:
            known = ", ".join(definition.variable_axes)
            raise InvalidCase(f"{where}: axes", axis, f"must be one of the variable axes {known}")
    for axis in definition.variable_axes:
        if axis not in workload.axes:
            raise InvalidCase(f"{where}: axes.{axis}", None, "is missing")
    given: dict[str, Any] = {}
    random = []
    for name, spec in definition.inputs.items():
        if name not in workload.inputs:
            if not spec.optional:
                raise InvalidCase(f"{where}: inputs.{name}", None, "is missing")
            given[name] = None
            continue
        kind = _kind(f"{where}: inputs.{name}", workload.inputs[name], scalar=spec.shape is None)
        if kind == "random" and name in stated.tables:
            rule = "must be safetensors: no random table is one"
            raise InvalidCase(f"{where}: inputs.{name}", "random", rule)
        if kind == "random":
            random.append(name)
        else:
            given[name] = _input(f"{where}: inputs.{name}", kind, workload.inputs[name], root)
    read = {name: value.shape for name, value in given.items() if isinstance(value, np.ndarray)}
    definition.sizes(read, workload.axes)
    seed = int.from_bytes(sha256(workload.uuid.encode()).digest()[:8], "little")
    return stated.drawn(given, random, workload.axes, seed)


def _kind(where: str, given: Any, *, scalar: bool) -> str:
    kind = given.get("type") if isinstance(given, dict) else None
    if kind not in KINDS:
        raise InvalidCase(f"{where}.type", kind, f"must be one of {', '.join(KINDS)}")
    if (kind == "scalar") != scalar:
        rule = "must be scalar" if scalar else "must be random or safetensors"
        raise InvalidCase(f"{where}.type", kind, rule)
    return str(kind)


def _input(where: str, kind: str, given: Mapping[str, Any], root: Path) -> Any:
    """An input: a number, or an array."""
    if kind == "scalar":
        return finite_number(f"{where}.value", given.get("value"))
    data = dict(given)
    return read_tensor(root / field(where, data, "path", str), field(where, data, "tensor_key", str))


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
