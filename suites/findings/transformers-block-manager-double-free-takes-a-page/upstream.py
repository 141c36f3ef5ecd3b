"""A block freed twice is taken from the request that got it in between."""

from transformers.generation.continuous_batching.cache_manager import BlockManager

manager = BlockManager(1, 4, tp_on=False)
mine = manager.get_free_blocks(1, None, True, 0)
manager.free_blocks(mine, shareable=True)
other = manager.get_free_blocks(1, None, True, 0)
manager.free_blocks(mine, shareable=True)
free = manager.num_free_blocks
assert free == 0, f"got {free} free blocks while another request holds {other}, expected 0"
