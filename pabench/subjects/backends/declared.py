# SPDX-License-Identifier: Apache-2.0
"""What can be declared of a plain function or a bare file, and the arguments that a declaration brings.

The table ``ARGUMENTS`` is all of it: a function that has a parameter of one of these names declares its
feature and gets the value, a ``.cu`` file that declares the feature gets the parameters behind its others.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pabench.errors import InvalidCase, UnknownName, UsageError
from pabench.problem.checks import whole_number
from pabench.problem.dtypes import Array, dtype_by_name
from pabench.problem.features import all_features
from pabench.problem.formats import FORMATS
from pabench.problem.masks import MASKS
from pabench.problem.pool import KV_LAYOUTS
from pabench.problem.problem import MAX_HEAD_DIM
from pabench.problem.profile import NumericsProfile
from pabench.problem.tensors import Tensors
from pabench.problem.visibility import seen_keys
from pabench.subjects.backends.base import Capabilities

BASE = ("q", "k_cache", "v_cache", "block_table", "kv_lens", "sm_scale")
LATENT_BASE = ("q", "cache", "block_table", "kv_lens", "sm_scale", "head_dim_v")
DECLARATIONS = (
    *("append", "arrays", "dtypes", "features", "formats", "interleaved", "latent", "layout", "lse"),
    *("masks", "max_head_dim", "prefill", "profile", "rule"),
)
"""Names of attributes of a function."""
E4M3_FEATURE = frozenset({FORMATS["e4m3"].feature})
"""The format that parameters alone declare; others are named in ``formats``."""
NUMPY_DTYPES = ("float32", "float16")
"""Storage types that numpy has itself; bfloat16 must be asked for and comes as its bits in uint16, to torch
as what it is."""
NEAR = 0.8
"""How alike a parameter and a known name are when one is surely meant for the other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument beyond those of plain decode.

    Attributes:
        features: that have it; empty for ``qo_indptr`` and ``kv_layout``.
        declares: those of them that a parameter of this name declares; None for all.
        of: its value for a function: None where the case does not ask for it.
        neutral: for a ``.cu`` file in place of None, where that changes nothing.
        cuda: its type there; empty where such a file has no parameter of it.
    """

    features: frozenset[str]
    of: Callable[[Tensors], Any]
    neutral: Callable[[Tensors], Any] = lambda tensors: None
    cuda: str = ""
    declares: frozenset[str] | None = None

    @property
    def declared_by_name(self) -> frozenset[str]:
        """The features that a parameter of its name declares."""
        return self.features if self.declares is None else self.declares


def _heads(tensors: Tensors, number: float) -> Array:
    return np.full(tensors.case.problem.num_qo_heads, number, np.float32)


def _floats(numbers: Sequence[float] | None) -> Array | None:
    return None if numbers is None else np.asarray(numbers, np.float32)


def _scales(kind: str) -> Callable[[Tensors], Array | None]:
    """A scale for each KV head, or, where the case has such, for each sequence and KV head."""

    def of(tensors: Tensors) -> Array | None:
        case = tensors.case
        if case.scales:
            rows = [case.scales_of(kind, sequence) for sequence in range(case.batch.num_seqs)]
            return np.asarray(rows, np.float32)
        scaled = case.problem.q_dtype if kind == "q" else case.problem.kv_dtype
        return _floats(case.scales_of(kind, 0)) if scaled else None

    return of


def _ones(tensors: Tensors) -> Array:
    return np.ones(tensors.case.problem.num_kv_heads, np.float32)


def _scale_argument(kind: str) -> Argument:
    return Argument(
        features=frozenset(row.feature for row in FORMATS.values() if row.tensor_scale),
        declares=E4M3_FEATURE,
        of=_scales(kind),
        neutral=_ones,
        cuda="const float*",
    )


def mask_of(tensors: Tensors) -> Array:
    """Return which keys each query row sees, bool ``(num_query_tokens, max(kv_lens))``, all masks applied."""
    case = tensors.case
    seen = np.zeros((case.batch.num_query_tokens, max((1, *case.batch.kv_lens))), bool)
    ends = case.batch.qo_indptr.tolist()
    for sequence, kv_len in enumerate(case.batch.kv_lens):
        seen[ends[sequence] : ends[sequence + 1], :kv_len] = seen_keys(case, sequence)
    return seen


ARGUMENTS: dict[str, Argument] = {
    "qo_indptr": Argument(features=frozenset(), of=lambda t: t.qo_indptr, cuda="const int*"),
    "kv_layout": Argument(features=frozenset(), of=lambda t: t.case.kv_layout),
    "causal": Argument(features=frozenset({"non-causal"}), of=lambda t: t.case.problem.causal, cuda="int"),
    "window": Argument(
        features=frozenset({"window"}),
        of=lambda t: t.case.problem.window,
        neutral=lambda t: 2**31 - 1,
        cuda="int",
    ),
    "soft_cap": Argument(
        features=frozenset({"soft-cap"}),
        of=lambda t: t.case.problem.soft_cap,
        neutral=lambda t: 0.0,
        cuda="float",
    ),
    "alibi_slopes": Argument(
        features=frozenset({"alibi"}),
        of=lambda t: _floats(t.case.problem.alibi_slopes),
        neutral=lambda t: _heads(t, 0.0),
        cuda="const float*",
    ),
    "sinks": Argument(
        features=frozenset({"sinks"}),
        of=lambda t: _floats(t.case.problem.sinks),
        neutral=lambda t: _heads(t, -np.inf),
        cuda="const float*",
    ),
    **{f"{kind}_scale": _scale_argument(kind) for kind in "kv"},
    "out_dtype": Argument(
        features=frozenset({"fp8-q"}), declares=frozenset(), of=lambda t: t.case.problem.dtype
    ),
    "q_scale": Argument(features=frozenset({"fp8-q"}), of=_scales("q"), neutral=_ones, cuda="const float*"),
    "kv_dtype": Argument(
        features=frozenset(row.feature for row in FORMATS.values()) - E4M3_FEATURE,
        declares=frozenset(),
        of=lambda t: t.case.problem.kv_dtype,
    ),
    "mask": Argument(
        features=frozenset(MASKS),
        of=lambda t: mask_of(t) if t.case.masks else None,
        neutral=mask_of,
        cuda="const unsigned char*",
    ),
}
"""By the name of a function's parameter, in the order of a ``.cu`` file's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What is declared of a function or a file.

    Attributes:
        capabilities: of the backend.
        profile: of its arithmetic.
        names: of ``ARGUMENTS``, those it gets.
        latent: it is for latent caches and no other.
        append: writes tokens into a cache; None where there is none.
    """

    capabilities: Capabilities
    profile: NumericsProfile
    names: tuple[str, ...]
    latent: bool = False
    append: Callable[..., Any] | None = None


def names_of(features: frozenset[str], *, prefill: bool) -> tuple[str, ...]:
    """Return the arguments that declared features bring, those of a layout left out."""
    return tuple(
        name
        for name, argument in ARGUMENTS.items()
        if argument.features & features or (name == "qo_indptr" and prefill)
    )


def features_of(name: str, told: Mapping[str, Any]) -> frozenset[str]:
    """Return the features that ``features``, ``masks`` and ``formats`` of a declaration name."""
    features = listed(name, "features", told.get("features", ()), all_features())
    masks = told.get("masks", ())
    masks = tuple(MASKS) if masks is True or masks == "all" else masks
    formats = listed(name, "formats", told.get("formats", ()), FORMATS)
    stored = (FORMATS[one].feature for one in formats)
    return frozenset({*features, *listed(name, "masks", masks, MASKS), *stored})


def listed(name: str, field: str, value: Any, known: Iterable[str]) -> tuple[str, ...]:
    """Return ``value`` as names of ``known``; raises ``InvalidCase`` or ``UnknownName``."""
    if isinstance(value, str | bytes):
        raise InvalidCase(f"{name}: {field}", value, "must be a list of names")
    try:
        found = tuple(value)
    except TypeError:
        raise InvalidCase(f"{name}: {field}", value, "must be a list of names") from None
    known = tuple(known)
    for one in found:
        if one not in known:
            raise UnknownName(f"name in {field} of {name}:", str(one), known)
    return found


def declared_of(name: str, function: Callable[..., Any], told: Mapping[str, Any], device: str) -> Declared:
    """Return what a function declares, by ``told`` and by the names of its parameters.

    Raises:
        InvalidCase, UnknownName: a declaration that breaks a rule.
        UsageError: it cannot be called with the arguments that it is to get.
    """
    for one in told:
        if one not in DECLARATIONS:
            raise UnknownName(f"declaration of {name}:", one, DECLARATIONS)
    for field in ("latent", "lse", "prefill", "interleaved"):
        if not isinstance(told.get(field, True), bool):
            raise InvalidCase(f"{name}: {field}", told[field], "must be true or false")
    for field in ("append", "rule"):
        if told.get(field) is not None and not callable(told[field]):
            raise InvalidCase(f"{name}: {field}", told[field], "must be a function")
    latent = bool(told.get("latent", False))
    parameters = parameters_of(function)
    own = [] if parameters is None else _own(name, parameters)
    features = features_of(name, told).union(*(ARGUMENTS[one].declared_by_name for one in own))
    features |= {"latent-cache"} if latent else set()
    prefill = bool(told.get("prefill", False)) or "qo_indptr" in own
    layout = told.get("layout", KV_LAYOUTS if "kv_layout" in own else "NHD")
    layouts = listed(name, "layout", (layout,) if isinstance(layout, str) else layout, KV_LAYOUTS)
    if len(layouts) > 1 and "kv_layout" not in own:
        raise InvalidCase(f"{name}: layout", layout, "needs a parameter kv_layout to say which it is")
    names = names_of(features, prefill=prefill)
    names += ("kv_layout",) if "kv_layout" in own else ()
    _check_call(name, function, LATENT_BASE if latent else BASE, names, parameters)
    dtypes = told.get("dtypes", NUMPY_DTYPES)
    if isinstance(dtypes, str) or not dtypes:
        raise InvalidCase(f"{name}: dtypes", dtypes, "must be a list of storage types")
    profile = told.get("profile", NumericsProfile())
    if not isinstance(profile, NumericsProfile):
        raise InvalidCase(f"{name}: profile", profile, "must be a NumericsProfile")
    operations = {"decode", *(("prefill", "speculative") if prefill else ())}
    operations |= {"append"} if told.get("append") is not None else set()
    capabilities = Capabilities(
        dtypes=frozenset(dtype_by_name(dtype).name for dtype in dtypes),
        devices=frozenset({device}),
        operations=frozenset(operations),
        kv_layouts=frozenset(layouts),
        interleaved=told.get("interleaved", True),
        lse=told.get("lse", True),
        max_head_dim=whole_number(
            f"{name}: max_head_dim", told.get("max_head_dim", MAX_HEAD_DIM), low=1, high=MAX_HEAD_DIM
        ),
        features=features,
        requires=frozenset({"latent-cache"} if latent else ()),
        rule=told.get("rule"),
    )
    return Declared(
        capabilities=capabilities,
        profile=profile,
        names=names,
        latent=latent,
        append=told.get("append"),
    )


def parameters_of(function: Callable[..., Any]) -> dict[str, bool] | None:
    """Return the parameters of a callable and whether each may be left out; None where that is not known."""
    if (schema := schema_of(function)) is not None:
        return {one.name: one.has_default_value() for one in schema.arguments}
    try:
        found = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        one.name: one.default is not inspect.Parameter.empty or one.kind in kinds for one in found.values()
    }


def schema_of(function: Callable[..., Any]) -> Any:
    """Return the schema of an operator of torch; None of anything else."""
    return getattr(getattr(function, "default", function), "_schema", None)


def _own(name: str, parameters: Mapping[str, bool]) -> list[str]:
    """Those of ``ARGUMENTS`` among the parameters behind the first six."""
    behind = list(parameters)[len(BASE) :]
    for one in behind:
        near = difflib.get_close_matches(one, ARGUMENTS, n=1, cutoff=NEAR)
        if one not in ARGUMENTS and near:
            raise UsageError(f"{name}: parameter {one!r} is not known; did you mean {near[0]!r}?")
    return [one for one in behind if one in ARGUMENTS]


def _check_call(
    name: str,
    function: Callable[..., Any],
    base: Sequence[str],
    names: Sequence[str],
    parameters: Mapping[str, bool] | None,
) -> None:
    """Raise ``UsageError`` unless the function takes its arguments."""
    said = f"it is called with ({', '.join(base)}{''.join(f', {one}=...' for one in names)})"
    if parameters is None:
        return
    if schema_of(function) is not None:
        # the signature of an operator of torch says nothing
        lacking = [one for one in [*parameters][len(base) :] if not parameters[one] and one not in names]
        if len(parameters) < len(base) or lacking:
            wrong = f"it needs {', '.join(lacking)}" if lacking else f"it has {len(parameters)} parameters"
            raise UsageError(f"{name}: {wrong}; {said}")
        return
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*base, **dict.fromkeys(names))
    except TypeError as error:
        raise UsageError(f"{name}: {error}; {said}") from None
