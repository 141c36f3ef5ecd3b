"""A NaN in the value of a token that slid out of the window makes the row NaN."""

import flashinfer
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"
room, q = torch.empty(2**27, dtype=torch.uint8, device=device), torch.ones(1, 1, 64, device=device).half()
cache = torch.ones(1, 2, 16, 1, 64, device=device).half()  # 1 page of K and of V, 16 tokens
cache[0, 1, 0] = torch.nan  # the first value; the window is the last token
pages, first, last = (torch.tensor(n, dtype=torch.int32) for n in ([0, 1], [0], [16]))
wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(room, "NHD")
wrapper.plan(pages, first, last, 1, 1, 64, 16, window_left=0, q_data_type=torch.float16)
got = wrapper.run(q, cache)[0, 0, 0].item()
assert got == 1, f"got {got} for a row whose window holds a value of 1, expected 1.0"
