"""17 query heads for a KV head: a program of 16 heads that spans two KV heads reads the first one's."""

import torch
from sglang.kernels.ops.attention.decode_attention import decode_attention_fwd

device = "cuda" if torch.cuda.is_available() else "cpu"  # on the CPU with TRITON_INTERPRET=1
q, out = (torch.ones(1, 34, 16, device=device) for _ in range(2))
cache = torch.tensor([1.0, 2.0], device=device).repeat_interleave(16).reshape(1, 2, 16)
logits, lse = torch.zeros(1, 34, 1, 16, device=device), torch.zeros(1, 34, 1, device=device)
table = [torch.tensor(numbers, dtype=torch.int32, device=device) for numbers in ([0, 1], [0], [1])]
decode_attention_fwd(q, cache, cache, out, table[0], table[1], logits, lse, table[2], 1, 0.25, 1.0, 1.0)
assert out[0, 17, 0] == 2.0, f"got {out[0, 17, 0]} for query head 17, of KV head 1, expected its value 2.0"
