"""Grids as data: a TOML file of models, shapes and expectations becomes points in the order of their
importance.

The head of ``suites/grids/core.toml`` says what the tables mean.  ``core-small``, ``core`` (its medium grid)
and ``core-full`` are names of that file's grids; ``FILE`` or ``FILE:small`` reads another one.
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
from pabench.errors import InvalidCase, UnknownName, UsageError
from pabench.problem.checks import finite_number, one_of, whole_number
from pabench.problem.dtypes import DTYPES
from pabench.problem.problem import Problem
from pabench.resources import resource_dir
from pabench.tables import read_toml

SIZES = ("small", "medium", "full")
NAMES = {"core-small": "small", "core": "medium", "core-full": "full"}
MODEL_KEYS = ("heads", "head_dim", "soft_cap", "window")
POINT_DEFAULTS: Mapping[str, list[Any]] = {"page_sizes": [16], "dtypes": ["bfloat16"], "layouts": ["NHD"]}
POINT_KEYS = ("grid", "models", "shapes", "lengths", *POINT_DEFAULTS)
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
    """

    model: str
    problem: Problem
    batch: int
    lengths: str
    layout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GridFile:
    """Points, the most important first, and what is expected of them."""

    points: tuple[GridPoint, ...]
    expectations: Expectations


def read_grid(name: str) -> GridFile:
    """Return the grid that ``name`` means; see the module's head.

    Raises:
        UsageError: no such grid or file, no TOML, or a table that breaks its rule.
        UnknownName: a key or model that does not exist.
    """
    if name in NAMES:
        path, size = resource_dir("suites") / "grids" / "core.toml", NAMES[name]
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
    _keys("table of the grid", data, ("expect", "model", "points"))
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
    return GridFile(points=tuple(points), expectations=_expectations(data["expect"]))


def _points(models: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[GridPoint]:
    table = {**POINT_DEFAULTS, **table}
    for key in POINT_KEYS[1:]:
        if not isinstance(table[key], list) or not table[key]:
            raise InvalidCase(key, table[key], "must be a list that is not empty")
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
                soft_cap=given.get("soft_cap"),
                window=given.get("window"),
            ),
            batch=batch,
            lengths=str(lengths).replace("{mean}", str(mean)).replace("{twice}", str(2 * mean)),
            layout=one_of("layouts", layout, LAYOUTS),
        )


def _expectations(table: Mapping[str, Any]) -> Expectations:
    _keys("key of expect", _table("expect", table), ("memory_reach", "tensor_reach", "fraction"))
    rules = []
    for rule in _tables("expect.fraction", table.get("fraction", [])):
        _keys("key of expect.fraction", rule, ("backend", "even", "from_mb", "fraction"))
        rules.append(
            ExpectedFraction(
                backend=str(rule["backend"]),
                even=bool(rule["even"]),
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
