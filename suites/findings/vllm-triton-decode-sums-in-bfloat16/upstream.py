"""One query head for a KV head: the products of query and key are summed in bfloat16."""

import torch
from vllm.v1.attention.ops.triton_decode_attention import decode_attention_fwd

device = "cuda" if torch.cuda.is_available() else "cpu"  # Triton interprets no bfloat16
q, out, cache = (torch.ones(1, 1, 16, dtype=torch.bfloat16, device=device) for _ in range(3))
cache[..., 0] = 256.0  # beyond it bfloat16 has no odd numbers
lse, parts = torch.zeros(1, 1, device=device), torch.zeros(1, 1, 1, 17, device=device)
table, lens = (torch.tensor(one, dtype=torch.int32, device=device) for one in ([[0]], [1]))
decode_attention_fwd(q, cache[None], cache[None], out, lse, table, lens, parts, 1, 1.0, 1)
assert lse.item() == 271.0, f"got {lse.item()} for 256 and 15 times 1, expected 271.0"
