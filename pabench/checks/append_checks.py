# SPDX-License-Identifier: Apache-2.0
"""Checks of the append operation: bit-exact where it writes, and nothing else changed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pabench.checks.outcome import PASSED, Outcome, failed
from pabench.checks.watched import watched
from pabench.device.base import Device
from pabench.errors import Unsupported
from pabench.judge.gather import to_float64
from pabench.problem.append import AppendCase, build_append
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool
from pabench.subjects.backends.base import Backend, offered


def check_append(case: AppendCase, backend: Backend, device: Device) -> Outcome:
    """New tokens stand in their slots bit for bit; every other byte of the cache is as before."""
    if case.problem.kv_dtype is not None:
        raise Unsupported("append takes tokens stored as the cache is; append-e4m3 takes this case")
    pool, keys, values, slot_mapping = build_append(case)
    given = {"keys": keys, "values": values, "slot_mapping": slot_mapping}
    return judged_append(
        case,
        pool,
        given,
        device,
        lambda: backend.append(pool, case.problem.dtype, keys, values, slot_mapping),
    )


def check_append_stored(case: AppendCase, backend: Backend, device: Device) -> Outcome:
    """In a cache of any format stand the tokens as it rounds them, with scales; the rest is as before."""
    if case.problem.kv_dtype is None:
        raise Unsupported("append-stored takes a cache with a format of its own; append takes this case")
    pool, keys, values, slot_mapping = build_append(case)
    write = offered(backend, "append-stored")
    given = {"keys": keys, "values": values, "slot_mapping": slot_mapping}
    return judged_append(
        case, pool, given, device, lambda: write(pool, case.problem, keys, values, slot_mapping)
    )


def check_append_e4m3(case: AppendCase, backend: Backend, device: Device) -> Outcome:
    """In a cache of e4m3 stand the tokens over their scale, rounded once; every other byte is as before."""
    if case.problem.kv_dtype != "e4m3":
        raise Unsupported("append-e4m3 takes a cache of e4m3; another append takes this case")
    pool, keys, values, slot_mapping = build_append(case)
    write = offered(backend, "append-e4m3")
    given = {"keys": keys, "values": values, "slot_mapping": slot_mapping}
    return judged_append(
        case, pool, given, device, lambda: write(pool, case.problem, keys, values, slot_mapping)
    )


def check_append_paged(case: AppendCase, backend: Backend, device: Device) -> Outcome:
    """New tokens stand where block table and lengths have their places; every other byte is as before."""
    if not case.is_paged:
        raise Unsupported("append-paged takes a block table; append takes this case")
    pool, keys, values, _ = build_append(case)
    write = offered(backend, "append-paged")
    where = paged_where(case)
    given = {"keys": keys, "values": values, **where}
    return judged_append(case, pool, given, device, lambda: write(pool, case.problem, keys, values, **where))


def paged_where(case: AppendCase) -> dict[str, Array]:
    """Return block table, lengths and first tokens of a case with a block table."""
    batch = case.batch
    return {
        "block_table": case.layout.block_table,
        "kv_lens": np.asarray(batch.kv_lens, dtype=np.int32),
        "qo_indptr": batch.qo_indptr,
    }


def judged_append(
    case: AppendCase, pool: KvPool, given: dict[str, Array], device: Device, write: Callable[[], Array]
) -> Outcome:
    """Judge what ``write`` returns, the storage of ``pool`` with the tokens of ``case`` in it."""
    before = pool.storage.tobytes()
    after, stray = watched(device, given, write)
    if pool.storage.tobytes() != before:
        return failed("append changed the cache it was given, must return a new one")
    if stray:
        return failed(stray)
    if (
        not isinstance(after, np.ndarray)
        or after.shape != pool.storage.shape
        or after.dtype != pool.storage.dtype
    ):
        return failed(f"append returned {_describe(after)}, must return {_describe(pool.storage)}")
    keys, values = given["keys"], given["values"]
    got = pool.with_storage(after)
    expected = pool.with_storage(pool.storage.copy())
    sides = (("k", expected.k, got.k, keys), ("v", expected.v, got.v, values))
    # values of a latent cache are written with its keys
    for kind, view, mine, rows in sides[: 1 if case.problem.latent else 2]:
        stored = _stored(case, kind, rows)
        for token, slot in enumerate(case.slots):
            if slot >= 0:
                page, offset = divmod(slot, case.problem.page_size)
                row = (page, offset) if case.kv_layout == "NHD" else (page, slice(None), offset)
                view[row] = _any_nan(case, kind, stored[token], mine[row])
    for name, a, b, old in (("key", got.k, expected.k, pool.k), ("value", got.v, expected.v, pool.v)):
        wrong = _first_difference(a, b)
        if wrong:
            page, first, second, dim = wrong
            head, offset = (second, first) if case.kv_layout == "NHD" else (first, second)
            slot = page * case.problem.page_size + offset
            kept = " (it still holds what was there)" if _same(a[wrong], old[wrong]) else ""
            place = f"{name} in slot {slot} (page {page}, offset {offset}), KV head {head}, {_at(case, dim)}"
            if slot not in case.slots:
                return failed(f"{place} belongs to no token and is wrong{kept}")
            token = case.slots.index(slot)
            owner = f"token {token}"
            if case.problem.kv_dtype is not None:
                rows = keys if name == "key" or case.problem.latent else values
                owner += _written_as(case, name[0], rows[token], head, dim)
                owner += f": {a[wrong]:#04x}, must be {b[wrong]:#04x}"
            return failed(f"{place} belongs to {owner} and is wrong{kept}")
    return gaps_kept(expected, after) or PASSED


def gaps_kept(expected: KvPool, after: Array) -> Outcome | None:
    """Say where a cache whose rows are right was written between them; None where it was not."""
    wrong = _first_difference(after, expected.storage)
    if wrong is None:
        return None
    at = ", ".join(map(str, wrong))
    return failed(f"element [{at}] of the cache lies in a gap, which belongs to no token, and was written")


def _stored(case: AppendCase, kind: str, rows: Array) -> Array:
    """What the cache holds of ``rows``: their bits, or what its format makes of them over the scale."""
    problem = case.problem
    if problem.kv_format is None:
        return rows
    scales = np.asarray(problem.kv_scales(kind))[:, None]
    # a quotient of float32 numbers in float64 is nowhere near another tie than its own
    with np.errstate(invalid="ignore"):  # random bits may be a signalling NaN
        return problem.encode_rows(to_float64(rows, problem.storage) / scales)


def _any_nan(case: AppendCase, kind: str, expected: Array, got: Array) -> Array:
    """``expected`` with what is free as it stands in ``got``: which NaN it is, and what fills up a row."""
    form = case.problem.kv_format
    if form is None:
        return expected
    if form.scale is None:
        free = np.isnan(to_float64(expected, form.numbers)) & np.isnan(to_float64(got, form.numbers))
    else:
        dim = case.problem.head_dim if kind == "k" else case.problem.value_dim
        free = np.broadcast_to(~form.used(dim), expected.shape)
    return np.where(free, got, expected)


def _at(case: AppendCase, element: int) -> str:
    form = case.problem.kv_format
    return f"dim {element}" if form is None or form.scale is None else f"byte {element} of its row"


def _written_as(case: AppendCase, kind: str, rows: Array, head: int, element: int) -> str:
    """Which number, over which scale, an element of a row was to hold; or what part of the row it is."""
    form, problem = case.problem.kv_format, case.problem
    if form is not None and form.scale is not None:
        what = "numbers" if element < form.scales_at(rows.shape[-1]) else "a scale"
        return f", where {form.name} has {what}"
    number = float(to_float64(rows[head, element], problem.storage))
    return f", {number:.9g} over {problem.kv_scales(kind)[head]:.9g}"


def _first_difference(a: Array, b: Array) -> tuple[int, ...] | None:
    bits = np.dtype(f"u{a.dtype.itemsize}")
    where = np.argwhere(np.ascontiguousarray(a).view(bits) != np.ascontiguousarray(b).view(bits))
    return tuple(int(i) for i in where[0]) if where.size else None


def _same(a: Array, b: Array) -> bool:
    return bool(np.asarray(a).tobytes() == np.asarray(b).tobytes())


def _describe(array: object) -> str:
    if isinstance(array, np.ndarray):
        return f"{array.dtype}{list(array.shape)}"
    return type(array).__name__
