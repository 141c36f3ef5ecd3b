"""No warp sync stands between a write to shared memory and another lane's read of it (prefill.cuh:2206)."""

import flashinfer
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"
room, q = torch.empty(2**27, dtype=torch.uint8, device=device), torch.ones(1, 1, 64, device=device).half()
cache = torch.ones(1, 2, 16, 1, 64, device=device).half()  # 1 page of K and of V, 16 tokens
cache[:, 1] = torch.arange(64, device=device)  # each value is its dim
rows, pages, first, last = (torch.tensor(n, dtype=torch.int32) for n in ([0, 1], [0, 1], [0], [16]))
wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(room, "NHD", backend="fa2")
wrapper.plan(rows, pages, first, last, 1, 1, 64, 16, q_data_type=torch.float16)
got = wrapper.run(q, cache)[0, 0, :8].tolist()  # on a GPU look with compute-sanitizer --tool racecheck
assert got == [*range(8)], f"got {got}, expected 0 to 7"
