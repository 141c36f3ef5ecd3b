"""A block freed twice has a reference count below 0."""

from vllm.v1.core.block_pool import BlockPool

pool = BlockPool(3, False, 16)
blocks = pool.get_new_blocks(1)
pool.free_blocks(blocks)
pool.free_blocks(blocks)
count = blocks[0].ref_cnt
assert count == 0, f"got a reference count of {count}, expected an error from the second free_blocks"
