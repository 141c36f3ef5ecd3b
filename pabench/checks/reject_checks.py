# SPDX-License-Identifier: Apache-2.0
"""Reject or correct: corrupt problems end in a typed error, and in nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pabench.checks.attention_checks import check_decode, judge_output
from pabench.checks.corruptions import CORRUPTIONS, Break, Corruption
from pabench.checks.outcome import PASSED, Outcome, failed, words_of
from pabench.checks.plan_checks import untouched
from pabench.device.base import Device
from pabench.errors import Unsupported, UsageError
from pabench.problem.append import AppendCase, build_append
from pabench.problem.case import Case
from pabench.problem.dtypes import Array
from pabench.problem.pool import KvPool
from pabench.problem.tensors import Tensors, build_tensors
from pabench.subjects.backends.base import Backend, attend


def check_reject(case: Case, backend: Backend, device: Device) -> Outcome:
    """A corrupt problem is refused with a typed error, touches nothing, and the backend still works after."""
    _must_validate(backend)
    good = build_tensors(case)
    for name, corruption, way in ways_of(case):
        outcome = _judge(name, corruption, way, good, backend)
        if not outcome.passed:
            return outcome
    return check_decode(case, backend, device)


def ways_of(case: Case) -> Iterator[tuple[str, Corruption, Break]]:
    """Yield one way of every class of corruption; which one depends on the case's seed."""
    for name, corruption in CORRUPTIONS.items():
        ways = list(corruption.ways.items())
        words, way = ways[case.seed % len(ways)]
        yield f"{name} ({words})", corruption, way


def _judge(name: str, corruption: Corruption, way: Break, good: Tensors, backend: Backend) -> Outcome:
    before = untouched(good)
    try:
        broken = way(good)
        if broken is None:
            return PASSED
        output = attend(backend, broken)
    except UsageError as error:
        outcome = PASSED if str(error).strip() else failed(f"{name}: the error has no text")
    except Unsupported:
        outcome = PASSED  # a typed error too: the field that broke is one that the backend does not have
    except Exception as error:
        text = f"must be refused with InvalidCase, raised {words_of(error)}"
        outcome = failed(f"{name}: {text}")
    else:
        outcome = failed(f"{name}: must be refused, was accepted")
        if corruption.defined:
            judged = judge_output(good, output, backend)
            wrong = failed(f"{name}: refused or right, was {judged.text}")
            outcome = PASSED if judged.passed else replace(wrong, causes=judged.causes)
    changed = [field for field, stood in untouched(good).items() if stood != before[field]]
    if outcome.passed and changed:
        return failed(f"{name}: refused, and changed {', '.join(changed)}")
    return outcome


def check_append_reject(case: AppendCase, backend: Backend, device: Device) -> Outcome:
    """A corrupt append is refused with a typed error, and the cache is as it was."""
    _must_validate(backend)
    pool, keys, values, slots = build_append(case)
    if not len(slots):
        raise Unsupported("no token to break")
    before = pool.storage.tobytes()
    for name, call in _appends(case, pool, keys, values, slots).items():
        try:
            backend.append(*call)
        except UsageError as error:
            if not str(error).strip():
                return failed(f"{name}: the error has no text")
        except Exception as error:
            return failed(f"{name}: must be refused with InvalidCase, raised {words_of(error)}")
        else:
            return failed(f"{name}: must be refused, was accepted")
        if pool.storage.tobytes() != before:
            return failed(f"{name}: refused, and changed the cache")
    return PASSED


def _appends(
    case: AppendCase, pool: KvPool, keys: Array, values: Array, slots: Array
) -> dict[str, tuple[KvPool, str, Array, Array, Array]]:
    """Calls of ``append`` with one broken argument each."""
    dtype, last = case.problem.dtype, len(slots) - 1
    capacity = case.num_pages * case.problem.page_size

    def slot(value: int) -> Array:
        changed = slots.copy()
        changed[last] = value
        return changed

    with np.errstate(invalid="ignore"):  # random bits hold signalling NaN
        wide = (keys.astype(np.float64), values.astype(np.float64))
    twice = np.zeros(2, slots.dtype)
    double = (np.repeat(keys[:1], 2, axis=0), np.repeat(values[:1], 2, axis=0))
    return {
        "slot at the capacity": (pool, dtype, keys, values, slot(capacity)),
        "slot past every int32": (pool, dtype, keys, values, slot(2**40)),
        "slot -2": (pool, dtype, keys, values, slot(-2)),
        "slot named twice": (pool, dtype, *double, twice),
        "slots as float64": (pool, dtype, keys, values, slots.astype(np.float64)),
        "slots in two axes": (pool, dtype, keys, values, slots[:, None]),
        "more slots than keys": (pool, dtype, keys[:-1], values, slots),
        "values one short": (pool, dtype, keys, values[:-1], slots),
        "keys as float64": (pool, dtype, wide[0], values, slots),
        "values as float64": (pool, dtype, keys, wide[1], slots),
        "keys one element short": (pool, dtype, keys[..., :-1], values, slots),
        "cache of 4 axes": (_flattened(pool), dtype, keys, values, slots),
    }


def _flattened(pool: KvPool) -> KvPool:
    return pool.with_storage(pool.storage.reshape(-1, *pool.storage.shape[2:]))


def _must_validate(backend: Backend) -> None:
    if not backend.capabilities.validates:
        raise Unsupported("declares that it does not validate")
