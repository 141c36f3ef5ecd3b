from __future__ import annotations

import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pabench.backends.rawkernel import RawKernelBackend
from pabench.kernels.append import append_tokens
from pabench.problem import KvPool, Problem
from pabench.problem.append import AppendCase, build_append
from pabench.problem.dtypes import FLOAT16, Array
from tests.probe import DEVICE

BACKEND = RawKernelBackend(DEVICE)


def expected_storage(case: AppendCase, pool: KvPool, keys: Array, values: Array) -> Array:
    after = pool.with_storage(pool.storage.copy())
    for token, slot in enumerate(case.slots):
        if slot >= 0:
            page, offset = divmod(slot, case.problem.page_size)
            place = (page, offset) if case.kv_layout == "NHD" else (page, slice(None), offset)
            after.k[place], after.v[place] = keys[token], values[token]
    return np.asarray(after.storage)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_kernels_append_like_numpy_property(data: st.DataObject) -> None:
    head_dim, dtype = data.draw(st.sampled_from([(5, "float32"), (64, "float16"), (64, "bfloat16")]))
    heads, page_size, pages = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 20), st.integers(1, 6)))
    slots = data.draw(st.lists(st.integers(-1, pages * page_size - 1), max_size=40))
    live = {slot: token for token, slot in enumerate(slots)}  # the last token of a slot keeps it
    case = AppendCase(
        problem=Problem(
            num_qo_heads=heads, num_kv_heads=heads, head_dim=head_dim, page_size=page_size, dtype=dtype
        ),
        num_pages=pages,
        slots=tuple(slot if live[slot] == token else -1 for token, slot in enumerate(slots)),
        kv_layout=data.draw(st.sampled_from(["NHD", "HND"])),
        interleaved=data.draw(st.booleans()),
        seed=data.draw(st.integers(0, 1000)),
    )
    pool, keys, values, slot_mapping = build_append(case)
    before = pool.storage.tobytes()
    after = BACKEND.append(pool, dtype, keys, values, slot_mapping)
    assert after.tobytes() == expected_storage(case, pool, keys, values).tobytes()
    assert pool.storage.tobytes() == before


def test_kernels_append_beyond_two_to_the_31_elements() -> None:
    page = 2**20
    num_pages = 2**31 // page + 4
    try:
        memory = mmap.mmap(-1, 2 * num_pages * page * 2, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
    except OSError as error:
        pytest.skip(f"no address space of 8 GB here: {error}")
    storage = np.frombuffer(memory, np.float16).reshape(2, num_pages, page // 64, 1, 64)
    pool = KvPool(storage=storage, kv_layout="NHD", interleaved=False)
    keys = np.arange(3 * 64, dtype=np.float16).reshape(3, 1, 64)
    tokens = page // 64
    slots = np.array([5, (num_pages - 1) * tokens + 3, -1], np.int64)
    append_tokens(DEVICE, FLOAT16, pool=pool, keys=keys, values=-keys, slot_mapping=slots, page_size=tokens)
    np.testing.assert_array_equal(pool.k[0, 5], keys[0])
    np.testing.assert_array_equal(pool.k[num_pages - 1, 3], keys[1])
    np.testing.assert_array_equal(pool.v[num_pages - 1, 3], -keys[1])
    wrapped = ((num_pages - 1) * page + 3 * 64) % 2**31
    assert not pool.k[wrapped // page, wrapped % page // 64].any()
