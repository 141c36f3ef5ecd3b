"""A NaN in the value of a token that slid out of the window makes the row NaN."""

import torch
from vllm.v1.attention.ops.chunked_prefill_paged_decode import chunked_prefill_paged_decode

device = "cuda" if torch.cuda.is_available() else "cpu"  # on the CPU with TRITON_INTERPRET=1
q, new, out = (torch.ones(1, 1, 16, device=device) for _ in range(3))
keys, values = (torch.ones(shape, device=device) for shape in ((1, 1, 4, 16, 4), (1, 1, 16, 16)))
values[..., 0] = torch.nan  # of the first of 2 tokens; the window is the last one
table, starts, lens = (torch.tensor(one, dtype=torch.int32, device=device) for one in ([[0]], [0, 1], [2]))
where, one = (keys, values, table, starts, lens, 2, 1), torch.ones(1, device=device)
chunked_prefill_paged_decode(q, new, new, out, "auto", *where, one, one, sliding_window=1)
assert not out.isnan().any(), f"got {out[0, 0, 0]} for a row whose window holds a value of 1, expected 1.0"
