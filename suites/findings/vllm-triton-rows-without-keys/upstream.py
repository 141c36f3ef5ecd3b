"""A row that sees no key is NaN where another row of its block sees one."""

import torch
from vllm.v1.attention.ops.triton_unified_attention import unified_attention

device = "cuda" if torch.cuda.is_available() else "cpu"  # on the CPU with TRITON_INTERPRET=1
q, out = (torch.ones(2, 1, 16, device=device) for _ in range(2))
cache, table = torch.ones(1, 16, 1, 16, device=device), torch.zeros(1, 1, dtype=torch.int32, device=device)
starts, lens = (torch.tensor(one, dtype=torch.int32, device=device) for one in ([0, 2], [1]))
none = (0.0, None, None, None)
unified_attention(q, cache, cache, out, starts, 2, lens, 1, 0.25, True, (-1, -1), table, *none)
assert not out.isnan().any(), f"got {out[0, 0, 0]} for the first of 2 rows over 1 key, expected 0"
