# SPDX-License-Identifier: Apache-2.0
"""A Definition of FlashInfer Trace: what a kernel computes, by axes, inputs and outputs.

Source: github.com/flashinfer-ai/flashinfer-bench, docs/flashinfer_trace/definition.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pabench.errors import InvalidCase, UnknownName, UsageError
from pabench.exchange.json_files import field, parse, read_text
from pabench.problem.checks import whole_number
from pabench.text import shown_path

DTYPES = (
    *("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float4_e2m1"),
    *("int64", "int32", "int16", "int8", "bool"),
)
DEFINITIONS, SOLUTIONS = "definitions", "solutions"
"""Folders of a trace set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output: ``shape`` names axes, None for a scalar; an ``optional`` input may be None."""

    shape: tuple[str, ...] | None
    dtype: str
    optional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """What a kernel computes.

    Attributes:
        name: that solutions and traces refer to.
        op_type: such as ``gqa_paged``.
        axes: name to size; None for an axis whose size comes with the data.
        inputs, outputs: in the order of the arguments.
        tags: namespaced, such as ``stage:decode``.
    """

    name: str
    op_type: str
    axes: Mapping[str, int | None]
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    tags: tuple[str, ...] = ()

    @property
    def variable_axes(self) -> tuple[str, ...]:
        """Axes whose size comes with the data."""
        return tuple(name for name, size in self.axes.items() if size is None)

    def sizes(
        self, shapes: Mapping[str, tuple[int, ...]], known: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """Return the sizes of the variable axes that arrays of these shapes have, by input or output.

        Args:
            shapes: name to shape.
            known: sizes that are given; the arrays must have them.

        Raises:
            InvalidCase: an array does not have its axes, or two give one axis two sizes.
        """
        found = dict(known or {})
        for name, shape in shapes.items():
            spec = self.inputs.get(name) or self.outputs[name]
            if spec.shape is None or len(shape) != len(spec.shape):
                raise InvalidCase(f"{self.name}: {name}", shape, f"must have the axes {spec.shape}")
            for axis, size in zip(spec.shape, shape, strict=True):
                wanted = self.axes[axis] if self.axes[axis] is not None else found.setdefault(axis, size)
                if size != wanted:
                    raise InvalidCase(f"{self.name}: {name}", shape, f"axis {axis} must be {wanted}")
        return found


def read_definition(path: Path) -> Definition:
    """Read a Definition; what its reference computes is not looked at, the judge has its own.

    Raises:
        UsageError: no such file, or no JSON object.
        InvalidCase: names the field and the rule.
    """
    where = f"definition {shown_path(path)}"
    return definition_of(parse(read_text(path, "definition"), where), where)


def definition_of(data: dict[str, Any], where: str) -> Definition:
    """Return the Definition in a JSON object; raises ``InvalidCase`` that begins with ``where``."""
    axes = {
        name: _axis(f"{where}: axes.{name}", given)
        for name, given in field(where, data, "axes", dict).items()
    }
    tensors = {
        side: {
            name: _tensor(f"{where}: {side}.{name}", given, axes)
            for name, given in field(where, data, side, dict).items()
        }
        for side in ("inputs", "outputs")
    }
    for what, found in (("axes", axes), *tensors.items()):
        if not found:
            raise InvalidCase(f"{where}: {what}", {}, "must name at least one")
    field(where, data, "reference", str)
    tags = field(where, data, "tags", list, default=[])
    return Definition(
        name=field(where, data, "name", str),
        op_type=field(where, data, "op_type", str),
        axes=axes,
        inputs=tensors["inputs"],
        outputs=tensors["outputs"],
        tags=tuple(tag for tag in tags if isinstance(tag, str)),
    )


def definitions_in(root: Path) -> Iterator[tuple[Path, Definition]]:
    """Yield the definitions of a trace set with their files, in the order of their names.

    Raises as ``read_definition`` does.
    """
    for path in sorted((root / DEFINITIONS).rglob("*.json")):
        yield path, read_definition(path)


def root_of(solution: Path) -> Path:
    """Return the trace set that a solution lies in: the nearest folder above with ``definitions``.

    Raises:
        UsageError: there is none.
    """
    for folder in solution.absolute().parents:
        if (folder / DEFINITIONS).is_dir():
            return folder
    raise UsageError(f"solution {shown_path(solution)}: no folder above it has {DEFINITIONS}/")


def find_definition(root: Path, name: str) -> Definition:
    """Return the definition of a name; raises ``UnknownName`` and as ``read_definition`` does."""
    names = []
    for _, definition in definitions_in(root):
        if definition.name == name:
            return definition
        names.append(definition.name)
    raise UnknownName("definition", name, names)


def _axis(where: str, given: Any) -> int | None:
    if not isinstance(given, dict):
        raise InvalidCase(where, given, "must be an object with a type")
    kind = given.get("type")
    if kind == "var":
        return None
    if kind != "const":
        raise InvalidCase(f"{where}.type", kind, "must be const or var")
    return whole_number(f"{where}.value", given.get("value"), low=1)


def _tensor(where: str, given: Any, axes: Mapping[str, int | None]) -> TensorSpec:
    if not isinstance(given, dict) or "shape" not in given:
        raise InvalidCase(where, given, "must be an object with shape and dtype")
    shape, dtype = given["shape"], given.get("dtype")
    if dtype not in DTYPES:
        raise InvalidCase(f"{where}.dtype", dtype, f"must be one of {', '.join(DTYPES)}")
    optional = field(where, given, "optional", bool, default=False)
    if shape is None:
        return TensorSpec(shape=None, dtype=dtype, optional=optional)
    if not isinstance(shape, list) or not all(isinstance(axis, str) for axis in shape):
        raise InvalidCase(f"{where}.shape", shape, "must be a list of axes, or null for a scalar")
    for axis in shape:
        if axis not in axes:
            raise InvalidCase(f"{where}.shape", axis, f"must be one of the axes {', '.join(axes)}")
    return TensorSpec(shape=tuple(shape), dtype=dtype, optional=optional)
