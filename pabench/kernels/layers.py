# SPDX-License-Identifier: Apache-2.0
"""One plan for many layers: the launches of a call with the queries, cache and output of another layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pabench.device.base import Device
from pabench.errors import InvalidCase
from pabench.kernels.decode_simple import AttentionPlan
from pabench.kernels.instance import LOAD_BYTES, address_of
from pabench.problem.pool import KvPool


def layer_of(
    device: Device,
    plan: AttentionPlan,
    q: Any,
    pool: KvPool,
    *,
    beside: AttentionPlan | None = None,
    maps: Sequence[np.void] = (),
) -> AttentionPlan:
    """Return ``plan`` for another layer: lengths, block table and what the device planned are shared.

    Args:
        device: where the arrays lie.
        plan: of the first layer.
        q: on the device, like the first layer's.
        pool: the layer's cache on the device, like the first layer's.
        beside: the same layer's other call, whose output and LSE are written too.
        maps: tensor maps of the layer's cache, in the order in which a launch has them.

    Raises:
        InvalidCase: an array of another shape, type, stride or alignment than the first layer's.
    """
    given = {"q": q, "keys": pool.k, "values": pool.v}
    for (name, array), first in zip(given.items(), (plan.q, plan.k, plan.v), strict=True):
        for field in ("shape", "dtype", "strides"):
            found, wanted = getattr(array, field), getattr(first, field)
            if found != wanted:
                raise InvalidCase(
                    f"{field} of {name}", found, f"must be {wanted}, as in the layer planned first"
                )
        # the width of loads was chosen for the first one
        if address_of(array) % LOAD_BYTES not in (0, address_of(first) % LOAD_BYTES):
            raise InvalidCase(
                f"address of {name}", address_of(array), f"must be a multiple of {LOAD_BYTES} bytes"
            )
    if beside is None:
        out, lse = (device.empty(tuple(array.shape), array.dtype) for array in (plan.out, plan.lse))
    else:
        out, lse = beside.out, beside.lse
    # launches name arrays, and these very ones are what differs
    other = {
        id(old): new
        for old, new in zip(
            (plan.q, plan.k, plan.v, plan.out, plan.lse), (*given.values(), out, lse), strict=True
        )
    }
    attention = (
        replace(launch, args=with_maps([other.get(id(arg), arg) for arg in launch.args], maps))
        for launch in plan.launches[plan.planning :]
    )
    launches = (*plan.launches[: plan.planning], *attention)
    return replace(plan, launches=launches, q=q, k=given["keys"], v=given["values"], out=out, lse=lse)


def with_maps(args: Sequence[Any], maps: Sequence[np.void]) -> tuple[Any, ...]:
    """Return arguments of a launch with ``maps`` in place of its tensor maps, as many."""
    left = iter(maps)
    return tuple(next(left) if isinstance(arg, np.void) else arg for arg in args)
