# SPDX-License-Identifier: Apache-2.0
"""A plain function takes every feature that a class can, by the names of its parameters or as declared."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pabench.device.emulated import EmulatedDevice
from pabench.errors import InvalidCase, PabenchError, UnknownName, Unsupported, UsageError
from pabench.judge.verdict import Verdict, judge
from pabench.problem import Batch, Case, Problem, build_tensors
from pabench.problem.formats import FORMATS
from pabench.problem.masks import MASKS
from pabench.problem.pool import KvPool, pool_shape
from pabench.subjects.backends.base import attend as attend_with
from pabench.subjects.backends.declared import ARGUMENTS
from pabench.subjects.backends.function import DeclaredFunction, FunctionBackend
from tests.support.featured_function import append, attend

HEADS = (0.5, 0.25, -1.0, 2.0)


@pytest.fixture(scope="module")
def device() -> EmulatedDevice:
    return EmulatedDevice()


def case_of(q_lens: tuple[int, ...] | None = None, masks: Any = (), **changes: Any) -> Case:
    layout = {name: changes.pop(name) for name in ("kv_layout", "page_gaps", "scales") if name in changes}
    problem = Problem(num_qo_heads=4, num_kv_heads=2, head_dim=16, page_size=4, **changes)
    batch = Batch(kv_lens=(3, 5, 40), q_lens=q_lens)
    return Case(problem=problem, batch=batch, poison="nan", masks=masks, **layout)


def verdict(device: EmulatedDevice, function: Callable[..., Any], case: Case, **told: Any) -> Verdict:
    backend = FunctionBackend("mine", DeclaredFunction(function=function, declared=told), device)
    tensors = build_tensors(case)
    output = attend_with(backend, tensors)
    return judge(tensors, output.out, output.lse, backend.profile)


CASES = {
    "window": case_of(window=7),
    "soft_cap": case_of(soft_cap=2.0),
    "alibi_slopes": case_of(alibi_slopes=HEADS),
    "sinks": case_of(sinks=HEADS),
    "k_scale": case_of(kv_dtype="e4m3", k_scale=(0.5, 3.0)),
    "v_scale": case_of(kv_dtype="e4m3", v_scale=(0.5, 3.0)),
    "q_scale": case_of(q_dtype="e4m3", q_scale=(0.5, 3.0)),
    "out_dtype": case_of(q_dtype="e4m3", dtype="float16"),
    "kv_dtype": case_of(kv_dtype="e5m2", k_scale=(0.5, 3.0)),
    "qo_indptr": case_of(q_lens=(3, 1, 6)),
    "causal": case_of(q_lens=(3, 1, 6), causal=False),
    "kv_layout": case_of(kv_layout="HND"),
    "mask": case_of(q_lens=(3, 1, 6), masks={"two-sided-window": (2, 1)}, causal=False),
}


def test_function_has_a_case_for_every_argument() -> None:
    assert CASES.keys() == ARGUMENTS.keys()


@pytest.mark.parametrize("name", CASES)
def test_function_gets_what_its_parameters_name(device: EmulatedDevice, name: str) -> None:
    """With the argument it is right, and without its value wrong: so the value came and was needed."""

    @functools.wraps(attend)
    def deaf(*given: Any, **named: Any) -> Any:
        quiet = {"causal": True, "kv_layout": "NHD", "k_scale": np.ones(2), "v_scale": np.ones(2)}
        quiet["q_scale"] = np.ones(2)
        return attend(*given, **{**named, name: quiet.get(name)})

    case = CASES[name]
    told = {"formats": ["e5m2"]} if name == "kv_dtype" else {}
    assert verdict(device, attend, case, **told).passed
    if name == "kv_layout":
        with pytest.raises(IndexError):
            verdict(device, deaf, case, layout=("NHD", "HND"))
        return
    assert not verdict(device, deaf, case, **told).passed


@pytest.mark.parametrize("name", FORMATS)
def test_function_declares_any_format_of_the_table(device: EmulatedDevice, name: str) -> None:
    """One that is told which it is reads each; one with no such parameter is refused in a line."""
    case = case_of(kv_dtype=name)
    found = verdict(device, attend, case, formats=[*FORMATS])
    assert found.passed, found.text
    if name == "e4m3":
        return

    def untold(q: Any, k_cache: Any, v_cache: Any, block_table: Any, kv_lens: Any, sm_scale: float) -> None:
        """Takes a cache of whatever bytes."""

    with pytest.raises(UsageError, match="kv_dtype"):
        verdict(device, untold, case, formats=[name])


def test_function_is_told_nothing_that_it_does_not_name(device: EmulatedDevice) -> None:
    def plain(q: Any, k: Any, v: Any, table: Any, lens: Any, scale: float) -> Any:
        return attend(q, k, v, table, lens, scale)

    assert verdict(device, plain, case_of()).passed
    for name, case in CASES.items():
        with pytest.raises(Unsupported, match="mine: no"):
            verdict(device, plain, case)
        assert name in ARGUMENTS


def test_function_declares_features_beside_its_parameters(device: EmulatedDevice) -> None:
    def anything(*given: Any, **named: Any) -> Any:
        return attend(*given, **named)

    told = {"features": ("window", "soft-cap"), "formats": ["e4m3"], "masks": "all", "prefill": True}
    backend = FunctionBackend("mine", DeclaredFunction(function=anything, declared=told), device)
    assert backend.capabilities.features == {"window", "soft-cap", "fp8-kv", *MASKS}
    assert {"prefill", "speculative"} <= backend.capabilities.operations
    assert verdict(device, anything, case_of(window=3, soft_cap=1.0, q_lens=(1, 2, 3)), **told).passed
    # what needs no argument: the shapes and strides of the caches say it
    told = {"features": ("head-dim-v", "page-gaps")}
    case = case_of(head_dim_v=8, page_gaps=(3, 5))
    assert verdict(device, anything, case, **told).passed


BY_SEQUENCE = case_of(
    kv_dtype="e4m3",
    scales={"k": [[1.0, 0.5], [2.0, 0.25], [0.5, 1.0]], "v": [[1.0, 2.0], [3.0, 0.5], [0.25, 4.0]]},
)


@pytest.mark.parametrize("order", [1, -1])
def test_function_gets_scales_of_each_sequence(device: EmulatedDevice, order: int) -> None:
    def by_sequence(
        q: Any, k: Any, v: Any, table: Any, lens: Any, scale: float, *, k_scale: Any, v_scale: Any
    ) -> Any:
        found = [
            attend(q[i : i + 1], k, v, table[i : i + 1], lens[i : i + 1], scale, k_scale=mine, v_scale=other)
            for i, (mine, other) in enumerate(zip(k_scale[::order], v_scale[::order], strict=True))
        ]
        return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))

    told = {"features": ("sequence-scales",)}
    assert verdict(device, by_sequence, BY_SEQUENCE, **told).passed is (order == 1)


def test_function_with_latent_caches_has_features_too(device: EmulatedDevice) -> None:
    def latent(q: Any, cache: Any, table: Any, lens: Any, scale: float, dim: int, *, soft_cap: Any) -> Any:
        return attend(q, cache, cache[..., :dim], table, lens, scale, soft_cap=soft_cap)

    heads: dict[str, Any] = {"num_qo_heads": 4, "num_kv_heads": 1, "head_dim": 16, "head_dim_v": 8}
    problem = Problem(page_size=4, latent=True, sm_scale=0.25, soft_cap=2.0, **heads)
    case = Case(problem=problem, batch=Batch(kv_lens=(3, 40)), poison="nan")
    assert verdict(device, latent, case, latent=True).passed


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("interleaved", [False, True])
def test_function_appends(device: EmulatedDevice, layout: str, interleaved: bool) -> None:
    told = {"append": append, "layout": ("NHD", "HND")}
    backend = FunctionBackend("mine", DeclaredFunction(function=attend, declared=told), device)
    assert "append" in backend.capabilities.operations
    problem = Problem(num_qo_heads=2, num_kv_heads=2, head_dim=4, page_size=4)
    storage = np.zeros(pool_shape(problem, 3, kv_layout=layout, interleaved=interleaved), np.float32)
    pool = KvPool(storage=storage, kv_layout=layout, interleaved=interleaved)
    new = np.arange(16, dtype=np.float32).reshape(2, 2, 4)
    written = pool.with_storage(backend.append(pool, "float32", new, new + 50, np.array([5, -1])))
    assert not storage.any()
    k, v = (view if layout == "NHD" else view.swapaxes(1, 2) for view in (written.k, written.v))
    assert np.array_equal(k[1, 1], new[0])
    assert np.array_equal(v[1, 1], new[0] + 50)
    assert not k[0].any()
    assert (k.sum(), v.sum()) == (new[0].sum(), (new[0] + 50).sum())


def six(q: Any, k: Any, v: Any, table: Any, lens: Any, scale: float) -> None:
    """Takes the six alone."""


def near(q: Any, k: Any, v: Any, table: Any, lens: Any, scale: float, softcap: Any = None) -> None:
    """Means ``soft_cap``."""


def more(q: Any, k: Any, v: Any, table: Any, lens: Any, scale: float, workspace: Any) -> None:
    """Wants what nobody gives."""


@pytest.mark.parametrize(
    ("function", "told", "error", "said"),
    [
        (six, {"features": ("window",)}, UsageError, "got an unexpected keyword argument 'window'"),
        (six, {"features": ("windw",)}, UnknownName, "'windw'; did you mean 'window'?"),
        (six, {"features": "window"}, InvalidCase, "must be a list of names"),
        (six, {"formats": ("e5m3",)}, UnknownName, "'e5m3'; did you mean 'e5m2'?"),
        (six, {"masks": ("draft-trees",)}, UnknownName, "did you mean 'draft-tree'?"),
        (six, {"layout": "NDH"}, UnknownName, "'NDH'"),
        (six, {"layout": ("NHD", "HND")}, InvalidCase, "needs a parameter kv_layout"),
        (six, {"prefill": 1}, InvalidCase, "prefill = 1: must be true or false"),
        (six, {"append": "append"}, InvalidCase, "append = 'append': must be a function"),
        (six, {"arrays": "jax"}, InvalidCase, "arrays = 'jax': must be one of numpy, torch, cupy"),
        (six, {"arrays": "cupy"}, UsageError, "takes CuPy arrays, which are on a GPU"),
        (six, {"max_head_dim": 0}, InvalidCase, "max_head_dim = 0"),
        (near, {}, UsageError, "parameter 'softcap' is not known; did you mean 'soft_cap'?"),
        (more, {}, UsageError, "missing a required argument: 'workspace'; it is called with"),
        (lambda q, k: None, {}, UsageError, "too many positional arguments; it is called with .q, k_cache"),
    ],
)
def test_function_refuses(
    device: EmulatedDevice, function: Any, told: Any, error: type[PabenchError], said: str
) -> None:
    with pytest.raises(error, match=said) as caught:
        FunctionBackend("mine", DeclaredFunction(function=function, declared=told), device)
    assert "\n" not in str(caught.value)


def test_function_with_an_attribute_that_means_nothing_is_refused(device: EmulatedDevice) -> None:
    def decode(*given: Any) -> None:
        """Is never called."""

    decode._calls = 0  # type: ignore[attr-defined]
    FunctionBackend("mine", decode, device)
    decode.feature = ("window",)  # type: ignore[attr-defined]
    with pytest.raises(UnknownName, match=r"'feature'; did you mean 'features'\?"):
        FunctionBackend("mine", decode, device)


def test_torch_function_gets_tensors_of_their_types(device: EmulatedDevice) -> None:
    torch = pytest.importorskip("torch")
    seen = {}

    def decode(q: Any, k: Any, v: Any, table: Any, lens: Any, scale: float, *, k_scale: Any = None,
               v_scale: Any = None, window: Any = None) -> Any:  # fmt: skip
        seen[q.dtype, k.dtype] = k_scale
        bits = [one.view(torch.uint8).numpy() if k_scale is not None else one.numpy() for one in (k, v)]
        scales = {} if k_scale is None else {"k_scale": k_scale.numpy(), "v_scale": v_scale.numpy()}
        given = q.numpy(), *bits, table.numpy(), lens.numpy(), scale
        out, lse = attend(*given, window=window, **scales)
        return [torch.from_numpy(out), torch.from_numpy(lse)]

    for case in (case_of(window=5), case_of(kv_dtype="e4m3", k_scale=(2.0,))):
        decode.__annotations__["q"] = torch.Tensor
        assert verdict(device, decode, case).passed
    assert set(seen) == {
        (torch.float32, torch.float32),
        (torch.float32, torch.float8_e4m3fn),
    }
    away = FunctionBackend("mine", DeclaredFunction(function=lambda *a, **k: torch.empty(1, device="meta"),
                                                    declared={"arrays": "torch"}), device)  # fmt: skip
    with pytest.raises(ValueError, match="returned a tensor on meta, its arguments are on cpu"):
        attend_with(away, build_tensors(case_of()))


@pytest.mark.parametrize("arrays", ["numpy", "torch"])
def test_function_may_return_tensors_whatever_it_takes(device: EmulatedDevice, arrays: str) -> None:
    torch = pytest.importorskip("torch")

    def decode(*given: Any) -> Any:
        q, k, v, table, lens = (np.asarray(one) for one in given[:5])
        out, lse = attend(q, k, v, table, lens, given[5])
        return torch.from_numpy(out), torch.from_numpy(lse)

    decode.arrays = arrays  # type: ignore[attr-defined]
    assert verdict(device, decode, case_of()).passed
    for made, words in [
        (
            lambda q: torch.empty(q.shape, device="meta"),
            "returned a tensor on meta, its arguments are on cpu",
        ),
        (lambda q: torch.zeros(q.shape).to_sparse(), "returned a tensor of layout torch.sparse_coo, must be"),
    ]:
        useless = DeclaredFunction(function=lambda q, *a, made=made: made(q), declared={"arrays": arrays})
        with pytest.raises(ValueError, match=words):
            attend_with(FunctionBackend("mine", useless, device), build_tensors(case_of()))
