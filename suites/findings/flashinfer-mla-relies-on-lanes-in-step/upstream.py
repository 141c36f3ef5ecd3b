"""No warp sync stands between a write to shared memory and another lane's read of it (mla.cuh:887)."""

import flashinfer
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"
room, half = torch.empty(2**27, dtype=torch.uint8, device=device), torch.float16
q, cache = (torch.zeros(1, n, 576, device=device, dtype=half) for n in (1, 16))  # 1 page of 16 tokens
cache[..., :512] = torch.arange(512, device=device)  # each value is its dim
rows, pages, first, lens = (torch.tensor(n, dtype=torch.int32) for n in ([0, 1], [0, 1], [0], [16]))
wrapper = flashinfer.mla.BatchMLAPagedAttentionWrapper(room, backend="fa2")
wrapper.plan(rows, pages, first, lens, 1, 512, 64, 16, True, 1.0, half, half)
got = wrapper.run(*q.split([512, 64], -1), *cache.split([512, 64], -1))[0, 0, :8].tolist()
assert got == [*range(8)], f"got {got}, expected 0 to 7"  # on a GPU: compute-sanitizer --tool racecheck
