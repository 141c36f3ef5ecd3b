# SPDX-License-Identifier: Apache-2.0
"""The configuration of a sweep: what the options, the TOML file and the defaults resolve to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pabench.activities.sweep.axes import parse_heads, parse_names, parse_numbers
from pabench.errors import UnknownName, Unsupported, UsageError
from pabench.problem.dtypes import DTYPES
from pabench.problem.problem import MAX_HEAD_DIM
from pabench.subjects.backends.adapters.table import ADAPTERS
from pabench.subjects.reference import BACKEND
from pabench.subjects.registry import resolve_all
from pabench.timing.cold import POLICIES

LAYOUTS = {
    "NHD": ("NHD", False),
    "HND": ("HND", False),
    "NHD-strided": ("NHD", True),
    "HND-strided": ("HND", True),
}
"""Layout name to ``kv_layout`` and ``interleaved``; strided means K and V interleaved in one pool."""

DEFAULTS: dict[str, Any] = {
    "lengths": ("fixed:len=1024", "lognormal:mean=1024,cv=1", "azure-conv"),
    "batch": "1,8,64",
    "heads": ("32:8",),
    "head-dim": 128,
    "dtypes": "float16",
    "layouts": "NHD",
    "backend": ("rawkernel",),
    "device": "auto",
    "gpu": "H200",
    "seed": 0,
    "trace": (),
    "kernels": None,
    "inputs": None,
    "l2": None,
    "replicates": None,
    "checked": False,
    "grid": None,
}
AXES = ("page-sizes", "lengths", "trace", "batch", "heads", "head-dim", "dtypes", "layouts")
"""What a grid gives, and nobody else beside it."""
KEYS = ("page-sizes", *DEFAULTS)
MAX_SEED = 2**63 - 1
MAX_REPLICATES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepConfig:
    """A resolved sweep; the fields are named after the options.

    Attributes:
        heads: pairs of query heads and KV heads.
        lengths: length specs as written; empty when traces alone give the lengths.
        layouts: names in ``LAYOUTS``.
        traces: paths of trace files.
        kernels: folder used instead of the kernels that ship with pabench, or None.
        inputs: file of captured activations that cells of its heads are checked with too, or None.
        checked: look at every access on the emulated device and count traffic, instead of timing.
        grid: name or file of a grid that gives all ``AXES``, which are then empty; or None.
        l2: policies about the L2 cache; empty for ``cold-rotate`` where there is one.
        replicates: fresh processes of each backend that time every cell; None for what suits the device.
    """

    page_sizes: tuple[int, ...]
    lengths: tuple[str, ...]
    batch: tuple[int, ...]
    heads: tuple[tuple[int, int], ...]
    head_dim: int | None
    dtypes: tuple[str, ...]
    layouts: tuple[str, ...]
    backends: tuple[str, ...]
    device: str
    gpu: str
    seed: int
    traces: tuple[str, ...]
    kernels: str | None
    checked: bool
    grid: str | None = None
    inputs: str | None = None
    l2: tuple[str, ...] = ()
    replicates: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values under the option names; ``resolve_config`` reads them back."""
        return {
            "page-sizes": list(self.page_sizes),
            "lengths": list(self.lengths),
            "batch": list(self.batch),
            "heads": [f"{query}:{kv}" for query, kv in self.heads],
            "head-dim": self.head_dim,
            "dtypes": list(self.dtypes),
            "layouts": list(self.layouts),
            "backend": list(self.backends),
            "device": self.device,
            "gpu": self.gpu,
            "seed": self.seed,
            "trace": list(self.traces),
            "kernels": self.kernels,
            "inputs": self.inputs,
            "checked": self.checked,
            "grid": self.grid,
            # runs from before there was a choice go on with the default
            **({"l2": list(self.l2)} if self.l2 else {}),
            **({} if self.replicates is None else {"replicates": self.replicates}),
        }


def resolve_config(
    options: Mapping[str, Any], *, backends: Sequence[str], origin: Mapping[str, str] | None = None
) -> SweepConfig:
    """Return the configuration that ``options`` and the defaults give.

    Args:
        options: option name (``page-sizes``, ...) to value: text as on the command line, or the number or
            list that a file holds.  Absent and None mean the default; a trace without lengths replaces the
            default lengths.
        backends: known backend names.
        origin: option name to the words that errors call it by; ``--name`` where nothing is given.

    Raises:
        UsageError: a value breaks its rule, or no page size is given.
        UnknownName: an option, backend, dtype or layout that does not exist.
    """
    for key in options:
        if key not in KEYS:
            raise UnknownName("option", key, KEYS)
    given = {key: value for key, value in options.items() if value is not None and value not in ((), [])}
    words = {key: (origin or {}).get(key, f"--{key}") for key in KEYS}
    if "grid" in given:
        return _grid_config(given, words, backends)
    if "page-sizes" not in given:
        raise UsageError("no page sizes given", hint="for example --page-sizes 8,16,32")
    if "trace" in given and "lengths" not in given:
        given["lengths"] = ()
    value = {**DEFAULTS, **given}
    return SweepConfig(
        page_sizes=parse_numbers(words["page-sizes"], value["page-sizes"], high=2**20),
        lengths=_texts(words["lengths"], value["lengths"]),
        batch=parse_numbers(words["batch"], value["batch"], high=2**16),
        heads=_heads(words["heads"], value["heads"]),
        head_dim=_one_number(words["head-dim"], value["head-dim"], low=1, high=MAX_HEAD_DIM),
        dtypes=parse_names(words["dtypes"], "dtype", _commas(words["dtypes"], value["dtypes"]), DTYPES),
        layouts=parse_names(words["layouts"], "layout", _commas(words["layouts"], value["layouts"]), LAYOUTS),
        backends=_backends(words["backend"], value["backend"], backends),
        device=_text(words["device"], value["device"]),
        gpu=_text(words["gpu"], value["gpu"]),
        seed=_one_number(words["seed"], value["seed"], low=0, high=MAX_SEED),
        traces=_texts(words["trace"], value["trace"]),
        kernels=None if value["kernels"] is None else _text(words["kernels"], value["kernels"]),
        inputs=None if value["inputs"] is None else _text(words["inputs"], value["inputs"]),
        checked=_flag(words["checked"], value["checked"]),
        l2=_policies(words["l2"], value["l2"]),
        replicates=_replicates(words["replicates"], value["replicates"]),
    )


NOT_IN_GRIDS = (
    *("rawkernel-cascade", "rawkernel-mma-fixed", "rawkernel-mma-overlap"),
    *("rawkernel-mla", "rawkernel-wgmma"),
)
"""Run over a grid only when named, by a point of it or as an option.  The first is another's kernel where no
pages are shared; the second is that kernel too, cut for equal bits and not for speed; the third is launched
in another way; the fourth takes latent caches alone, the fifth one architecture."""


def absent_adapters() -> tuple[str, ...]:
    """Return the adapters, by name, a package of which is not installed or too old."""
    absent = []
    for name, adapter in ADAPTERS.items():
        try:
            for peer in adapter.peers:
                peer.find()
        except Unsupported:
            absent.append(name)
    return tuple(absent)


def _grid_config(given: Mapping[str, Any], words: Mapping[str, str], backends: Sequence[str]) -> SweepConfig:
    """A sweep over a grid: every known backend unless some are named; no axis beside it.

    Adapters of other projects are among them on ``--device cuda`` alone, where their packages are installed.
    """
    for key in AXES:
        if key in given:
            raise UsageError(f"{words[key]}: must not be given, the grid gives all axes")
    # without a GPU other projects' kernels run in interpreters: cells would take hours and say nothing
    from pabench.activities.sweep.grid_file import read_grid  # which needs this module

    named = read_grid(_text(words["grid"], given["grid"])).backends
    absent = absent_adapters() if given.get("device") == "cuda" else tuple(ADAPTERS)
    left_out = {*NOT_IN_GRIDS, *absent} - set(named)
    asked = tuple(name for name in backends if name not in left_out)
    value = {**DEFAULTS, "backend": asked, **given}
    return SweepConfig(
        page_sizes=(),
        lengths=(),
        batch=(),
        heads=(),
        head_dim=None,
        dtypes=(),
        layouts=(),
        backends=_backends(words["backend"], value["backend"], backends),
        device=_text(words["device"], value["device"]),
        gpu=_text(words["gpu"], value["gpu"]),
        seed=_one_number(words["seed"], value["seed"], low=0, high=MAX_SEED),
        traces=(),
        kernels=None if value["kernels"] is None else _text(words["kernels"], value["kernels"]),
        inputs=None if value["inputs"] is None else _text(words["inputs"], value["inputs"]),
        checked=_flag(words["checked"], value["checked"]),
        grid=_text(words["grid"], value["grid"]),
        l2=_policies(words["l2"], value["l2"]),
        replicates=_replicates(words["replicates"], value["replicates"]),
    )


def _policies(option: str, value: Any) -> tuple[str, ...]:
    return () if value is None else parse_names(option, "L2 policy", _commas(option, value), POLICIES)


def _replicates(option: str, value: Any) -> int | None:
    return None if value is None else _one_number(option, value, low=1, high=MAX_REPLICATES)


def _text(option: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{option}: {value!r} must be a non-empty text")
    return value


def _flag(option: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{option}: {value!r} must be true or false")
    return value


def _texts(option: str, value: Any) -> tuple[str, ...]:
    """One text or a list of them; ``lengths`` cannot be split at commas, which separate their parameters."""
    items = (value,) if isinstance(value, str) else value
    if not isinstance(items, Sequence):
        raise UsageError(f"{option}: {value!r} must be a text or a list of texts")
    return tuple(_text(option, item) for item in items)


def _commas(option: str, value: Any) -> tuple[str, ...]:
    return tuple(part for item in _texts(option, value) for part in item.split(","))


def _backends(option: str, value: Any, known: Sequence[str]) -> tuple[str, ...]:
    """Known names, and places of code (``file.py:attribute``, ``kernel.cu``), which must be there."""
    items = [item.strip() for item in _commas(option, value)]
    places = [
        item for item in items if item not in known and (":" in item or item.endswith((".py", ".cu", ".ptx")))
    ]
    resolve_all(BACKEND, dict.fromkeys(places))
    return parse_names(option, BACKEND, items, [*known, *places])


def _heads(option: str, value: Any) -> tuple[tuple[int, int], ...]:
    pairs: list[tuple[int, int]] = []
    for item in _commas(option, value):
        pair = parse_heads(option, item)
        if pair in pairs:
            raise UsageError(f"{option}: {pair[0]}:{pair[1]} is given twice")
        pairs.append(pair)
    if not pairs:
        raise UsageError(f"{option}: the list is empty, must name heads such as 32:8")
    return tuple(pairs)


def _one_number(option: str, value: Any, *, low: int, high: int) -> int:
    text = str(value)
    fits = not isinstance(value, bool) and text.isascii() and text.isdigit() and len(text) <= 20
    if not fits or not low <= int(text) <= high:
        raise UsageError(f"{option}: {value!r} must be a whole number from {low} to {high}")
    return int(text)
