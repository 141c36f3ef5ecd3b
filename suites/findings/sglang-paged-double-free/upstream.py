"""Pages freed in two calls are granted twice."""

import torch
from sglang.srt.mem_cache.allocator.paged import PagedTokenToKVPoolAllocator

pool = PagedTokenToKVPoolAllocator(8, 4, torch.float16, "cpu", None, False)
slots = pool.alloc(4)
pool.free(slots)
pool.free(slots)
granted = [pool.alloc(4).tolist() for _ in range(2)]
assert granted[0] != granted[1], f"got the slots {granted[0]} for two requests, expected different ones"
