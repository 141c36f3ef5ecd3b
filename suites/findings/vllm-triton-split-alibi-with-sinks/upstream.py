"""With ALiBi and a sink, rows after the first weigh it wrongly where keys are split into segments too."""

import torch
from vllm.v1.attention.ops.triton_unified_attention import unified_attention

device = "cuda" if torch.cuda.is_available() else "cpu"  # on the CPU with TRITON_INTERPRET=1
q, out, segments = (torch.zeros(shape, device=device) for shape in ((2, 1, 16), (2, 1, 16), (2, 1, 4, 16)))
cache, table = torch.ones(1, 16, 1, 16, device=device), torch.zeros(1, 1, dtype=torch.int32, device=device)
starts, lens = (torch.tensor(one, dtype=torch.int32, device=device) for one in ([0, 2], [2]))
head = {"alibi_slopes": torch.ones(1, device=device), "sinks": torch.zeros(1, device=device)}
split = (99, 4, segments, segments[..., 0].clone(), segments[..., 0].clone())
where = (starts, 2, lens, 2, 0.25, True, (-1, -1), table, 0.0, None, None, None, *split)
unified_attention(q, cache, cache, out, *where, **head)
assert abs(out[1, 0, 0] - 0.5777) < 1e-3, f"got {out[1, 0, 0]:.4f}, expected (1 + 1/e) / (2 + 1/e) = 0.5777"
