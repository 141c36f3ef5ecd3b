"""Outputs of states that saw nothing are multiplied by 0, so that a NaN in them is merged and handed on."""

import flashinfer
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"
out = torch.full((1, 2, 1, 64), torch.nan, dtype=torch.float16, device=device)  # memory that nobody wrote
lse = torch.full((1, 2, 1), -torch.inf, device=device)  # 1 row, 2 states of it
merged, joined = flashinfer.merge_states(out, lse)
assert merged.isfinite().all(), f"got {merged[0, 0, 0]} and LSE {joined.item()}, expected 0 and -inf"
