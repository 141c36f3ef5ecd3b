# SPDX-License-Identifier: Apache-2.0
"""The table of cache formats: how keys and values are stored where it is not as the queries are.

A new format of known types is a row here, and a clause of docs/specification.md.  What is drawn, stored,
judged, named and asked follows, and our readable kernels take it.
"""

from __future__ import annotations

from pabench.problem.dtypes import E2M1, E4M3, E5M2, E8M0, FLOAT32, INT4, INT8
from pabench.problem.formats import mistakes
from pabench.problem.formats.format import CacheFormat, Parts

OF_TOKENS = {
    "the scale of the first token of its sequence for all": mistakes.first_scale,
    "its scales left out": mistakes.no_scale,
}
OF_BLOCKS = {
    "the scale of the next block": mistakes.next_scale,
    "the scale of the first block for its whole row": mistakes.first_block,
    "the scales of four tokens swizzled": mistakes.swizzled,
}

FORMATS: dict[str, CacheFormat] = {
    row.name: row
    for row in (
        CacheFormat(
            name="e4m3",
            feature="fp8-kv",
            clause="F5",
            about="A cache of e4m3 with scales for K and V, per tensor or per KV head, in output and LSE.",
            numbers=E4M3,
            tensor_scale=True,
            mistakes={"bits of e4m3 taken for e5m2": mistakes.as_type(E5M2)},
        ),
        CacheFormat(
            name="e5m2",
            feature="kv-e5m2",
            clause="F16",
            about="A cache of e5m2 with scales for K and V, per tensor or per KV head.",
            numbers=E5M2,
            tensor_scale=True,
            mistakes={"bits of e5m2 taken for e4m3": mistakes.as_type(E4M3)},
        ),
        CacheFormat(
            name="int8",
            feature="kv-int8",
            clause="F24",
            about="A cache of int8 with scales for K and V, per tensor or per KV head.",
            numbers=INT8,
            tensor_scale=True,
            mistakes={"its numbers taken without their sign": mistakes.unsigned},
        ),
        CacheFormat(
            name="int8-token-head",
            feature="kv-int8-token-head",
            clause="F17",
            about="A cache of int8, with a scale for each token and head behind its numbers.",
            numbers=INT8,
            scale=FLOAT32,
            mistakes={**OF_TOKENS, "its numbers taken without their sign": mistakes.unsigned},
        ),
        CacheFormat(
            name="int4-token-head",
            feature="kv-int4-token-head",
            clause="F17",
            about="A cache of int4, two in a byte, with a scale for each token and head behind its numbers.",
            numbers=INT4,
            scale=FLOAT32,
            mistakes={
                **OF_TOKENS,
                "the high half of each byte taken first": mistakes.other_half,
                "its numbers taken without their sign": mistakes.unsigned,
            },
        ),
        CacheFormat(
            name="e4m3-token-head",
            feature="kv-e4m3-token-head",
            clause="F17",
            about="A cache of e4m3, with a scale for each token and head behind its numbers.",
            numbers=E4M3,
            scale=FLOAT32,
            mistakes=OF_TOKENS,
        ),
        CacheFormat(
            name="e4m3-packed-128",
            feature="kv-e4m3-packed-128",
            clause="F18",
            about="A cache of packed rows: e4m3, with a float32 scale for 128 numbers behind them.",
            numbers=E4M3,
            scale=FLOAT32,
            block=128,
            mistakes={"its scales left out": mistakes.no_scale},
        ),
        CacheFormat(
            name="nvfp4",
            feature="kv-nvfp4",
            clause="F19",
            about="A cache of NVFP4: e2m1, an e4m3 scale for 16 numbers, and scales for K and V.",
            numbers=E2M1,
            scale=E4M3,
            block=16,
            tensor_scale=True,
            mistakes={
                **OF_BLOCKS,
                "the high half of each byte taken first": mistakes.other_half,
                "bits of e2m1 taken for int4": mistakes.as_type(INT4),
            },
        ),
        CacheFormat(
            name="mxfp8",
            feature="kv-mxfp8",
            clause="F20",
            about="A cache of MXFP8: e4m3, and a power of two as scale for 32 numbers.",
            numbers=E4M3,
            scale=E8M0,
            block=32,
            mistakes={
                **OF_BLOCKS,
                "powers of two with a bias of 128": mistakes.off_by_a_power,
            },
        ),
    )
}
"""Formats by name, the value of ``kv_dtype``."""


def format_features() -> tuple[str, ...]:
    """Return what backends declare that take a format, in the order of the table."""
    return tuple(row.feature for row in FORMATS.values())


__all__ = ["FORMATS", "CacheFormat", "Parts", "format_features"]
