"""free_blocks raises KeyError for a block that is free, after it has freed those before it."""

from transformers.generation.continuous_batching.cache_manager import BlockManager

manager = BlockManager(2, 4, tp_on=False)
first, second = (manager.get_free_blocks(1, None, True, 0) for _ in range(2))
manager.free_blocks(second, shareable=True)
try:
    manager.free_blocks([*first, *second], shareable=True)
except KeyError:
    free = manager.num_free_blocks
    assert free == 1, f"got {free} free blocks after the call that raised KeyError, expected 1 as before it"
