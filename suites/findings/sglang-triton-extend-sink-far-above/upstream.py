"""A sink far above the scores makes the log-sum-exp infinite."""

import torch
from sglang.kernels.ops.attention.extend_attention import extend_attention_fwd

device = "cuda" if torch.cuda.is_available() else "cpu"  # on the CPU with TRITON_INTERPRET=1
rows, lse = torch.ones(1, 1, 16, device=device), torch.ones(1, 1, device=device)
starts, none = (torch.tensor(one, dtype=torch.int32, device=device) for one in ([0, 1], [0, 0]))
where = (starts, none, none.long(), None, True, None, 1, 1.0, 1.0)
sinks = torch.full((1,), 200.0, device=device)
extend_attention_fwd(rows, rows, rows, rows.clone(), rows, rows, *where, sinks=sinks, lse_extend=lse)
assert lse.isfinite().all(), f"got {lse.item()} for a sink of 200 and a score of 4, expected 200.0"
