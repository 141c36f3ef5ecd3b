# SPDX-License-Identifier: Apache-2.0
"""Reads a Definition of paged attention: its constants, its types, and what about it is not taken."""

from __future__ import annotations

import re
from dataclasses import replace

from pabench.errors import Unsupported
from pabench.exchange.definition import Definition
from pabench.exchange.paged import (
    CACHE,
    GQA,
    GQA_SCALES,
    LAST,
    LIST,
    LSE,
    MLA,
    MLA_SCALES,
    OUTPUT,
    ROWS,
    SCALE,
    TABLE,
    PagedAttention,
)
from pabench.problem.dtypes import DTYPES
from pabench.problem.shape import Shape

FLOAT8 = "float8_e4m3fn"


def paged_attention(definition: Definition) -> PagedAttention:
    """Return what a definition of paged attention states.

    Raises:
        Unsupported: it is of something else, or of attention that is not taken; the message says which
            input or axis.
    """
    inputs, outputs = definition.inputs, definition.outputs

    def declined(why: str) -> Unsupported:
        return Unsupported(f"definition {definition.name!r}: {why}")

    latent = set(MLA) <= set(inputs)
    arrays = MLA if latent else GQA
    listed = LIST in inputs
    if not {*arrays, *([LIST] if listed else TABLE)} <= set(inputs):
        raise declined(f"{definition.op_type} is no paged attention")
    scales = MLA_SCALES if latent else GQA_SCALES
    where = {LIST} if listed else {*TABLE, LAST, ROWS}
    known = sorted({*arrays, *where, SCALE, *scales})
    if unknown := [name for name, spec in inputs.items() if name not in known and not spec.optional]:
        raise declined(f"input {unknown[0]!r} is none of {', '.join(known)}")
    if OUTPUT not in outputs or set(outputs) - {OUTPUT, LSE}:
        raise declined(f"outputs {', '.join(outputs)}: must be {OUTPUT}, or {OUTPUT} and {LSE}")
    for name in (SCALE, *scales):
        if name in inputs and inputs[name].shape:
            raise declined(f"{name} must be a scalar")
    if latent and SCALE not in inputs:
        raise declined(f"no {SCALE}, which does not follow from a latent cache")
    dtypes = {name: inputs[name].dtype for name in arrays} | {OUTPUT: outputs[OUTPUT].dtype}
    caches = {dtype for name, dtype in dtypes.items() if name.endswith(CACHE)}
    wide = {dtype for name, dtype in dtypes.items() if not name.endswith(CACHE)}
    if len(wide | caches) > 1 and caches == {FLOAT8}:
        caches = wide
    if len(wide | caches) > 1 or min(wide) not in DTYPES:
        rule = f"must be one of {', '.join(DTYPES)} for all, or {FLOAT8} for the caches"
        raise declined(f"queries, cache and output of {', '.join(sorted(set(dtypes.values())))}: {rule}")
    e4m3 = inputs[arrays[-1]].dtype == FLOAT8
    if not e4m3 and (found := [name for name in scales if name in inputs and not inputs[name].optional]):
        raise declined(f"{found[0]} is of a cache of {FLOAT8}, and this one is of {min(wide)}")
    shape = _latent_shape(definition) if latent else _shape(definition)
    causal = re.search(r"non.?causal", definition.name) is None
    return PagedAttention(
        definition=definition,
        shape=shape if causal or ROWS not in inputs else replace(shape, causal=False),
        dtype=min(wide),
        prefill=ROWS in inputs or listed,
        kv_dtype="e4m3" if e4m3 else None,
        whole_pages=not listed and LAST not in inputs and shape.page_size > 1,
        listed=_constants(definition, LIST, 2)[0] if listed else None,
    )


def _constants(definition: Definition, name: str, axes: int) -> tuple[int, ...]:
    """Sizes of the axes of an input behind the first one, which must be constants."""
    shape = definition.inputs[name].shape or ()
    if len(shape) != axes:
        raise Unsupported(f"definition {definition.name!r}: {name} has axes {list(shape)}, taken are {axes}")
    found = []
    for axis in shape[1:]:
        size = definition.axes[axis]
        if size is None:
            raise Unsupported(f"definition {definition.name!r}: axis {axis} of {name} must be const")
        found.append(size)
    return tuple(found)


def _shape(definition: Definition) -> Shape:
    heads, head_dim = _constants(definition, "q", 3)
    page_size, kv_heads, key_dim = _constants(definition, "k_cache", 4)
    values = _constants(definition, "v_cache", 4)
    if key_dim != head_dim or values[:2] != (page_size, kv_heads):
        raise Unsupported(f"definition {definition.name!r}: q, k_cache and v_cache have unlike axes")
    head_dim_v = None if values[2] == head_dim else values[2]
    return Shape(
        num_qo_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        page_size=page_size,
        head_dim_v=head_dim_v,
    )


def _latent_shape(definition: Definition) -> Shape:
    heads, content = _constants(definition, "q_nope", 3)
    rope_heads, rope = _constants(definition, "q_pe", 3)
    page_size, width = _constants(definition, "ckv_cache", 3)
    if (rope_heads, width) != (heads, content) or _constants(definition, "kpe_cache", 3) != (page_size, rope):
        raise Unsupported(f"definition {definition.name!r}: its queries and caches have unlike axes")
    return Shape(
        num_qo_heads=heads,
        num_kv_heads=1,
        head_dim=content + rope,
        page_size=page_size,
        head_dim_v=content,
        latent=True,
    )
