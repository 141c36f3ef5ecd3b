"""The output of a state that saw nothing is multiplied by 0, so that a NaN there is merged."""

import flashinfer
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"
out = torch.ones(1, 2, 1, 64, dtype=torch.float16, device=device)  # 1 row, 2 states of it
out[:, 0] = torch.nan  # memory that nobody wrote: this state saw no key
lse = torch.tensor([[[-torch.inf], [0.0]]], device=device)
merged, _ = flashinfer.merge_states(out, lse)
assert merged.isfinite().all(), f"got {merged[0, 0, 0]}, expected 1, the output of the other state"
