# SPDX-License-Identifier: Apache-2.0
"""Grids as data: a TOML file of models, shapes and expectations becomes points in the order of their
importance.

The head of ``suites/grids/core.toml`` says what the tables mean.  ``core-small``, ``core`` (its medium grid)
and ``core-full`` are names of that file's grids, ``kinds`` is that of ``kinds.toml``; ``FILE`` or
``FILE:small`` reads another one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pabench.activities.sweep.axes import parse_heads
from pabench.activities.sweep.config import LAYOUTS
from pabench.activities.sweep.expect import Expectations, ExpectedFraction
from pabench.activities.sweep.operation import UNITS
from pabench.errors import InvalidCase, UnknownName, UsageError
from pabench.problem.checks import finite_number, one_of, whole_number
from pabench.problem.dtypes import DTYPES
from pabench.problem.problem import Problem
from pabench.resources import resource_dir
from pabench.tables import read_toml

SIZES = ("small", "medium", "full")
NAMES = {
    "core-small": ("core", "small"),
    "core": ("core", "medium"),
    "core-full": ("core", "full"),
    "kinds": ("kinds", "full"),
}
FEATURE_KEYS = ("soft_cap", "window", "kv_dtype", "head_dim_v", "latent", "sm_scale")
MODEL_KEYS = ("heads", "head_dim", *FEATURE_KEYS)
POINT_DEFAULTS: Mapping[str, list[Any]] = {"page_sizes": [16], "dtypes": ["bfloat16"], "layouts": ["NHD"]}
AXIS_KEYS = ("models", "shapes", "lengths", *POINT_DEFAULTS)
POINT_KEYS = ("grid", *AXIS_KEYS, "queries", "shared", "backends")
SHAPE = re.compile(r"(\d{1,5})x(\d{1,9})")


@dataclass(frozen=True, slots=True, kw_only=True)
class GridPoint:
    """One point of a grid, for every backend.

    Attributes:
        model: its name in the file.
        problem: heads, head_dim, page size, dtype and features.
        batch: sequences.
        lengths: text of a length spec.
        layout: name in ``LAYOUTS``.
        q_len: query tokens of each sequence.
        shared_pages: the first pages of every sequence, which are those of the first one.
        backends: the only ones that it is for; all where there are none.
    """

    model: str
    problem: Problem
    batch: int
    lengths: str
    layout: str
    q_len: int = 1
    shared_pages: int = 0
    backends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GridFile:
    """Points, the most important first, and what is expected of them.

    ``operations`` are those beside attention: by name their size, and the part of the reachable bandwidth
    that is expected.
    """

    points: tuple[GridPoint, ...]
    expectations: Expectations
    operations: Mapping[str, tuple[int, float]]

    @property
    def backends(self) -> tuple[str, ...]:
        """Those that points name."""
        return tuple(dict.fromkeys(name for point in self.points for name in point.backends))


def read_grid(name: str) -> GridFile:
    """Return the grid that ``name`` means; see the module's head.

    Raises:
        UsageError: no such grid or file, no TOML, or a table that breaks its rule.
        UnknownName: a key or model that does not exist.
    """
    if name in NAMES:
        file, size = NAMES[name]
        path = resource_dir("suites") / "grids" / f"{file}.toml"
    else:
        file, _, given = name.rpartition(":")
        path, size = (Path(file), given) if given in SIZES and file else (Path(name), "full")
        if not path.is_file():
            raise (
                UnknownName("grid", name, NAMES)
                if path.suffix != ".toml"
                else UsageError(f"--grid {name}: no such file")
            )
    data = read_toml(path, what="grid")
    try:
        return _grid(data, size)
    except UnknownName:
        raise
    except (UsageError, TypeError, KeyError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UsageError(f"grid {path}: {what}") from None


def _grid(data: Mapping[str, Any], size: str) -> GridFile:
    _keys("table of the grid", data, ("expect", "model", "points", "operations"))
    models = _table("model", data["model"])
    for name, model in models.items():
        _keys("key of a model", _table(f"model.{name}", model), MODEL_KEYS)
    points: dict[GridPoint, None] = {}
    for table in _tables("points", data["points"]):
        _keys("key of points", table, POINT_KEYS)
        if SIZES.index(one_of("grid", table["grid"], SIZES)) > SIZES.index(size):
            continue
        # a point that two tables name has the importance of the first
        points.update(dict.fromkeys(_points(models, table)))
    if not points:
        raise UsageError(f"has no points of size {size}")
    operations = _operations(_table("operations", data.get("operations", {})))
    return GridFile(points=tuple(points), expectations=_expectations(data["expect"]), operations=operations)


def _operations(table: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    _keys("operation", table, tuple(UNITS))
    for name, given in table.items():
        _keys("key of an operation", _table(f"operations.{name}", given), ("size", "fraction"))
    return {
        name: (whole_number("size", given["size"], low=1, high=2**24), _part("fraction", given["fraction"]))
        for name, given in table.items()
    }


def _points(models: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[GridPoint]:
    table = {**POINT_DEFAULTS, **table}
    for key in AXIS_KEYS:
        if not isinstance(table[key], list) or not table[key]:
            raise InvalidCase(key, table[key], "must be a list that is not empty")
    queries = whole_number("queries", table.get("queries", 1), low=1, high=2**16)
    shared = whole_number("shared", table.get("shared", 0), low=0, high=2**30)
    only = table.get("backends", [])
    if not isinstance(only, list) or not all(isinstance(name, str) for name in only):
        raise InvalidCase("backends", only, "must be a list of names of backends")
    axes = (table[key] for key in ("models", "shapes", "lengths", "dtypes", "layouts", "page_sizes"))
    for model, shape, lengths, dtype, layout, page_size in product(*axes):
        if not isinstance(model, str) or model not in models:
            raise UnknownName("model of a grid", str(model), models)
        found = SHAPE.fullmatch(str(shape))
        if found is None:
            raise InvalidCase("shapes", shape, "must read SEQUENCESxMEAN, such as 32x4096")
        batch, mean = whole_number("sequences", int(found[1]), low=1, high=2**16), int(found[2])
        given = models[model]
        heads = parse_heads("heads", str(given["heads"]))
        yield GridPoint(
            model=model,
            problem=Problem(
                num_qo_heads=heads[0],
                num_kv_heads=heads[1],
                head_dim=given["head_dim"],
                page_size=whole_number("page_sizes", page_size, low=1, high=2**20),
                dtype=one_of("dtypes", dtype, DTYPES),
                **{key: given[key] for key in FEATURE_KEYS if key in given},
            ),
            batch=batch,
            lengths=str(lengths).replace("{mean}", str(mean)).replace("{twice}", str(2 * mean)),
            layout=one_of("layouts", layout, LAYOUTS),
            q_len=queries,
            shared_pages=shared // page_size,
            backends=tuple(only),
        )


def _expectations(table: Mapping[str, Any]) -> Expectations:
    _keys("key of expect", _table("expect", table), ("memory_reach", "tensor_reach", "fraction"))
    rules = []
    for rule in _tables("expect.fraction", table.get("fraction", [])):
        _keys("key of expect.fraction", rule, ("backend", "even", "from_mb", "fraction", "models"))
        rules.append(
            ExpectedFraction(
                backend=str(rule["backend"]),
                even=bool(rule["even"]),
                models=tuple(str(name) for name in rule.get("models", [])),
                from_mb=finite_number("from_mb", rule["from_mb"], low=0.0),
                fraction=_part("fraction", rule["fraction"]),
            )
        )
    return Expectations(
        memory_reach=_part("memory_reach", table["memory_reach"]),
        tensor_reach=_part("tensor_reach", table["tensor_reach"]),
        fractions=tuple(rules),
    )


def _table(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidCase(name, value, "must be a table")
    return value


def _tables(name: str, value: Any) -> list[Mapping[str, Any]]:
    if not isinstance(value, list):
        raise InvalidCase(name, value, f"must be tables, each under [[{name}]]")
    return [_table(name, table) for table in value]


def _part(field: str, value: Any) -> float:
    return finite_number(field, value, low=1e-6, high=1.0)


def _keys(what: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise UnknownName(what, key, known)
