"""A negative count adds to the count of free blocks."""

from vllm.v1.core.block_pool import BlockPool

pool = BlockPool(3, False, 16)
before = pool.get_num_free_blocks()
pool.get_new_blocks(-1)
after = pool.get_num_free_blocks()
assert after == before, f"got {after} free blocks, expected {before}, all there are"
