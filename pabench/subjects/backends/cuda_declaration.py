# SPDX-License-Identifier: Apache-2.0
"""What a ``// pabench:`` line of a bare ``.cu`` or ``.ptx`` file may say, and the parameters that follow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.errors import InvalidCase, UnknownName, UsageError
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import DTYPES, dtype_by_name
from pabench.problem.formats import FORMATS
from pabench.problem.pool import KvPool
from pabench.problem.problem import Problem
from pabench.problem.tensors import Tensors
from pabench.subjects.backends.declared import ARGUMENTS, features_of, names_of

DIRECTIVE = re.compile(r"^\s*//\s*pabench:(.*)$", re.MULTILINE)
VALUES = frozenset({"head-dim-v", "latent-cache", "page-gaps", "kv-strides"})
"""Features with which values have a length and strides of their own."""
SCALES = ("q_scale", "k_scale", "v_scale")
WORDS = {"true": True, "false": False}
LISTS = ("dtypes", "features", "masks", "formats")
NUMBERS = {"threads": (1, 1024), "shared_bytes": (0, 232448), "max_head_dim": (1, 1024)}
SCALARS: dict[str, Any] = {"int": np.int32, "float": np.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What a file declares.

    Attributes:
        threads: of a block.
        shared_bytes: dynamic shared memory of a block.
        dtypes: storage types the file is written for.
        max_head_dim: largest head dimension.
        p_dtype: see ``NumericsProfile``.
        accumulation, lse_base: see ``NumericsProfile``.
        tanh_error: see ``NumericsProfile``.
        features, masks, formats: names of what it takes beyond plain decode.
        prefill: it takes several query tokens per sequence.
        append: it has the entry point ``paged_append``.
        latent: it is for latent caches and no other.
    """

    threads: int = 128
    shared_bytes: int = 0
    dtypes: tuple[str, ...] = tuple(DTYPES)
    max_head_dim: int = 1024
    p_dtype: str = "float32"
    accumulation: str = "serial"
    lse_base: str = "e"
    tanh_error: float = 0.0
    features: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    prefill: bool = False
    append: bool = False
    latent: bool = False

    def all_features(self, name: str) -> frozenset[str]:
        """Return every feature it declares; raises ``UnknownName`` for one that there is not."""
        told = {
            "features": self.features,
            "masks": "all" if self.masks == ("all",) else self.masks,
            "formats": self.formats,
        }
        return features_of(name, told) | ({"latent-cache"} if self.latent else set())


def declaration(path: Path, text: str) -> Declaration:
    """Read the ``// pabench:`` lines of a file; later ones come on top of earlier ones.

    Raises:
        UsageError: a word that is no ``name=value``, or an unknown name.
        InvalidCase: a value that breaks a rule.
    """
    given: dict[str, Any] = {}
    for line in DIRECTIVE.findall(text):
        for word in line.split():
            name, equals, value = word.partition("=")
            known = Declaration.__dataclass_fields__
            if not equals:
                said = f"cannot read {word!r} in a pabench line (known: {', '.join(known)})"
                raise UsageError(f"backend {str(path)!r}: {said}")
            if name not in known:
                raise UnknownName(f"name in a pabench line of {path.name}:", name, known)
            given[name] = _value(path, name, value)
    return Declaration(**given)


def _value(path: Path, name: str, text: str) -> Any:
    field = f"{path.name}: {name}"
    if name in NUMBERS:
        low, high = NUMBERS[name]
        try:
            return whole_number(field, int(text), low=low, high=high)
        except ValueError:
            raise InvalidCase(field, text, "must be a whole number") from None
    if name == "tanh_error":
        try:
            return float(text)
        except ValueError:
            raise InvalidCase(field, text, "must be a number") from None
    if name in LISTS:
        names = tuple(text.split(","))
        return tuple(dtype_by_name(one).name for one in names) if name == "dtypes" else names
    if name in ("p_dtype", "accumulation", "lse_base"):
        return text
    if text not in WORDS:
        raise InvalidCase(field, text, "must be true or false")
    return WORDS[text]


def more_arguments(
    device: Device, features: frozenset[str], prefill: bool, tensors: Tensors, pool: KvPool
) -> tuple[Any, ...]:
    """Return what stands behind ``sm_scale``: where values have sizes of their own, then ``ARGUMENTS``."""
    problem = tensors.case.problem
    found: list[Any] = []
    if features & VALUES:
        found += [np.int32(problem.value_dim), *(np.int64(stride) for stride in pool.strides("v"))]
    for name in names_of(features, prefill=prefill):
        argument = ARGUMENTS[name]
        if not argument.cuda:
            continue  # the file is compiled for it, see ``defines_of``
        value = argument.of(tensors)
        value = argument.neutral(tensors) if value is None else value
        if argument.cuda in SCALARS:
            found.append(SCALARS[argument.cuda](value))
            continue
        if "sequence-scales" in features and name in SCALES:
            value = np.broadcast_to(value, (tensors.case.batch.num_seqs, problem.num_kv_heads))
        value = np.ascontiguousarray(value)
        found.append(device.to_device(value.view(np.uint8) if value.dtype == bool else value))
        if value.ndim == 2:
            found.append(np.int64(value.shape[1]))
    return tuple(found)


def defines_of(features: frozenset[str], problem: Problem) -> Mapping[str, str]:
    """Return the macros that sizes and types beyond those of plain decode have in a file."""
    found = {"PAB_HEAD_DIM_V": str(problem.value_dim)} if features & VALUES else {}
    if "fp8-q" in features:
        found["PAB_Q_E4M3"] = str(int(problem.q_dtype == "e4m3"))
    for row in FORMATS.values():
        if row.feature in features:
            found[f"PAB_{row.name.upper().replace('-', '_')}"] = str(int(problem.kv_dtype == row.name))
    return found
