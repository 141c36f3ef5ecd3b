# SPDX-License-Identifier: Apache-2.0
"""Layouts of a KV cache: two readings of one allocation, padded pages, and copies that a transfer takes."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from pabench.errors import InvalidCase
from pabench.problem.kv_layout import AXES, LAYER_FIRST, PAGE_FIRST, KvLayout, laid_out, unlike

HEADS_FIRST = ("layer", "kv", "block", "head", "token", "dim")
SIZES = {"layer": 3, "block": 5, "kv": 2, "head": 2, "token": 4, "dim": 8}


@pytest.mark.parametrize("order", list(permutations(AXES))[::37], ids="-".join)
def test_kv_layout_reads_what_numpy_does(order: tuple[str, ...]) -> None:
    layout = laid_out(order, **SIZES)
    cache = np.arange(layout.elements).reshape([SIZES[axis] for axis in order])
    read = cache.transpose([order.index(axis) for axis in AXES])
    for entry in [(0, 0, 0, 0, 0, 0), (2, 4, 1, 1, 3, 7), (1, 3, 0, 1, 2, 5)]:
        assert layout.place(*entry) == read[entry]
    # a page in as many pieces as a walk over its elements finds
    mine = np.sort(read[:, 1].reshape(-1))
    assert layout.pieces()[0] == np.count_nonzero(np.diff(mine) != 1) + 1
    assert layout.pieces()[0] * layout.pieces()[1] == mine.size


@pytest.mark.parametrize("pages", [[], [2], [0, 1, 2], [3, 0, 1], [3, 1]])
@pytest.mark.parametrize(("order", "padded"), [(LAYER_FIRST, None), (PAGE_FIRST, None), (PAGE_FIRST, 400)])
def test_kv_layout_counts_the_copies_of_a_transfer(pages: list[int], order: Any, padded: int | None) -> None:
    layout = laid_out(order, block_elements=padded, **SIZES)
    taken = np.zeros(layout.elements, bool)
    for entry in np.ndindex(*layout.sizes):
        taken[layout.place(*entry)] |= entry[1] in pages
    runs = np.count_nonzero(np.diff(np.concatenate(([0], taken.astype(int)))) == 1)
    assert layout.copies(pages) == runs


def test_kv_layout_says_which_token_two_readings_find_elsewhere() -> None:
    nhd, hnd = (
        laid_out(LAYER_FIRST, **SIZES),
        laid_out(HEADS_FIRST, **SIZES),
    )
    assert unlike(nhd, laid_out(LAYER_FIRST, **SIZES)) is None
    assert unlike(nhd, hnd) == (
        "layer 0, block 0, kv 0, head 0, token 1, dim 0 is element 16 in one reading, 8 in the other"
    )
    # of one token a page, the order of heads and tokens is all the same
    single = {**SIZES, "token": 1}
    assert (
        unlike(
            laid_out(LAYER_FIRST, **single),
            laid_out(HEADS_FIRST, **single),
        )
        is None
    )
    # the same shape, K and V swapped with the pages: LMCache#4467
    square = {**SIZES, "block": 2}
    swapped = laid_out(("layer", "block", "kv", "token", "head", "dim"), **square)
    assert str(unlike(laid_out(LAYER_FIRST, **square), swapped)).startswith("layer 0, block 0, kv 1, head 0")
    padded = laid_out(PAGE_FIRST, block_elements=400, **SIZES)
    assert unlike(laid_out(PAGE_FIRST, **SIZES), padded) == (
        "one reading is of 1920 elements, the other of 2000"
    )
    assert unlike(nhd, laid_out(LAYER_FIRST, **{**SIZES, "head": 1})) == (
        "one reading has 2 entries of axis head, the other 1"
    )
    later = replace(nhd, start=8, strides=nhd.strides, sizes=(3, 4, 2, 2, 4, 8))
    assert str(unlike(replace(later, start=0), later)).endswith("is element 0 in one reading, 8 in the other")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sizes": (1, 2, 2, 1, 4)}, "must be one for each of layer, block, kv, head, token, dim"),
        ({"strides": (64, 32, 16, 8, 4, 0)}, "strides[dim] = 0: must be at least 1"),
        ({"strides": (64, 15, 32, 16, 4, 1)}, "stride of axis block = 15: must be at least 16"),
        ({"elements": 63}, "elements = 63: must hold element 63, the last that is read"),
        ({"start": 1}, "elements = 64: must hold element 64"),
    ],
)
def test_kv_layout_refuses_what_cannot_be(given: dict[str, Any], said: str) -> None:
    right: dict[str, Any] = {"sizes": (1, 2, 2, 1, 4, 4), "strides": (64, 32, 16, 16, 4, 1), "elements": 64}
    KvLayout(**right)
    with pytest.raises(InvalidCase) as caught:
        KvLayout(**(right | given))
    assert said in str(caught.value)


def test_kv_layout_refuses_an_order_that_is_none() -> None:
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (("layer", "block"), SIZES, "must name each of layer, block, kv, head, token, dim once"),
        (LAYER_FIRST, {"layer": 1}, "must name block, kv, head, token, dim"),
        (PAGE_FIRST, {**SIZES, "block_elements": 383}, "block_elements = 383: must be at least 384"),
        (LAYER_FIRST, {**SIZES, "heads": 1}, "axis"),
    ]
    for order, sizes, said in wrong:
        with pytest.raises(InvalidCase) as caught:
            laid_out(order, **sizes)
        assert said in str(caught.value)
    layout = laid_out(LAYER_FIRST, **SIZES)
    for pages, said in (([5], "page = 5"), ([1, 1], "must each be named once")):
        with pytest.raises(InvalidCase) as caught:
            layout.copies(pages)
        assert said in str(caught.value)
