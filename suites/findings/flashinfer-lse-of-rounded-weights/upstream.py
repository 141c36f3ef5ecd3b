"""The LSE of the prefill kernel sums weights that were rounded to float16: 15 of 1/3 are 4.9988"""

import flashinfer
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"
room, q = torch.empty(2**27, dtype=torch.uint8, device=device), torch.zeros(1, 1, 64, device=device).half()
cache = torch.zeros(1, 2, 16, 1, 64, device=device).half()  # 1 page of K and of V, 16 tokens
q[..., 0], cache[0, 0, 0, 0, 0] = 1, 1.0986328125  # logits: the logarithm of 3, then 0
rows, pages, first, last = (torch.tensor(n, dtype=torch.int32) for n in ([0, 1], [0, 1], [0], [16]))
wrapper = flashinfer.BatchPrefillWithPagedKVCacheWrapper(room, "NHD", backend="fa2")
wrapper.plan(rows, pages, first, last, 1, 1, 64, 16, sm_scale=1.0, q_data_type=torch.float16)
got, expected = wrapper.run(q, cache, return_lse=True)[1], cache[0, 0, :, 0, 0].double().exp().sum().log2()
assert (got - expected).abs() < 1e-5, f"got {got.item()}, expected {expected.item()} in base 2"
