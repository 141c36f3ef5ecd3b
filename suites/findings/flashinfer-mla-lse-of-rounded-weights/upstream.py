"""The LSE over a latent cache sums weights that were rounded to float16: 15 of 1/3 are 4.9988."""

import flashinfer
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"
room, half = torch.empty(2**27, dtype=torch.uint8, device=device), torch.float16
q, cache = (torch.zeros(1, n, 576, device=device, dtype=half) for n in (1, 16))  # 1 page of 16 tokens
q[..., 0], cache[0, 0, 0] = 1, 1.0986328125  # logits: the logarithm of 3, then 0
rows, pages, first, lens = (torch.tensor(n, dtype=torch.int32) for n in ([0, 1], [0, 1], [0], [16]))
wrapper = flashinfer.mla.BatchMLAPagedAttentionWrapper(room, backend="fa2")
wrapper.plan(rows, pages, first, lens, 1, 512, 64, 16, True, 1.0, half, half, lse_mode="base2")
got = wrapper.run(*q.split([512, 64], -1), *cache.split([512, 64], -1), return_lse=True)[1].item()
assert abs(got - 4.16993) < 1e-5, f"got {got}, expected the logarithm of 18.00006, 4.16993"
