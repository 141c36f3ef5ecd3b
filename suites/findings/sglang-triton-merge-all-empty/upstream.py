"""Two states that saw nothing are merged into NaN, which the next merge takes over."""

import torch
from sglang.kernels.ops.attention.merge_state import merge_state_triton

device = "cuda" if torch.cuda.is_available() else "cpu"  # on the CPU with TRITON_INTERPRET=1
out, lse = torch.zeros(1, 1, 16, device=device), torch.full((1, 1), -torch.inf, device=device)
merged, joined = torch.empty_like(out), torch.empty_like(lse)
merge_state_triton(out, lse, out, lse, merged, joined)
assert merged.isfinite().all(), f"got {merged[0, 0, 0].item()} and LSE {joined.item()}, expected 0 and -inf"
