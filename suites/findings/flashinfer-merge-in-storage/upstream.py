"""With at least as many states as rows, what threads merged is rounded to float16 before the last sum."""

import flashinfer
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"
values = torch.tensor([1, -1, -1, 0, 0, 0, 0, 0, 1 + 2**-10], dtype=torch.float16, device=device)
out = values.view(1, 9, 1, 1).expand(1, 9, 1, 128).contiguous()  # 8 threads: one has the first and the last
merged, _ = flashinfer.merge_states(out, torch.zeros(1, 9, 1, device=device))
got, expected = merged[0, 0, 0].item(), values.double().mean().half().item()
assert got == expected, f"got {got}, expected {expected}: 1 + 2^-11, the mean of two, was rounded to 1"
