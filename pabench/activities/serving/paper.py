# SPDX-License-Identifier: Apache-2.0
"""What Kwon et al., "Efficient Memory Management for LLM Serving with PagedAttention" (SOSP 2023), report.

Figures are read off the paper's tables, charts and text; workloads are rebuilt from the means it gives, since
its samples of ShareGPT and Alpaca are not public.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pabench.problem.dtypes import Array
from pabench.problem.models import ModelShape
from pabench.workloads.requests import Requests

POOL_SLOTS = 15_728
"""Table 1: 12 GB of cache for OPT-13B on an A100 40 GB, in GiB and 819,200 bytes a token."""
MAX_TOKENS = 2048
"""Longest sequence of OPT."""

FIG2 = {
    "Orca (Max)": (20.4, 13.3, 57.3, 8.9),
    "Orca (Pow2)": (26.8, 17.9, 13.6, 41.6),
    "Orca (Oracle)": (38.2, 25.2, 0.0, 36.6),
    "vLLM": (96.3, None, None, None),
}
"""Figure 2: token states, reservation, internal, external and others, % of the pool."""
FIG13 = {
    "sharegpt": {"Orca (Max)": 7.00, "Orca (Pow2)": 9.81, "Orca (Oracle)": 13.62, "vLLM": 30.42},
    "alpaca": {"Orca (Max)": 7.00, "Orca (Pow2)": 43.24, "Orca (Oracle)": 72.75, "vLLM": 132.44},
}
"""Figure 13: mean number of batched requests."""
FIG15 = {"alpaca": {2: 6.09, 4: 8.53, 6: 9.79}, "sharegpt": {2: 16.2, 6: 30.5}}
"""Figure 15 and section 6.3: memory that parallel sampling saves by sharing, %."""
TABLE1 = (
    (
        ModelShape(
            name="opt-13b", title="OPT-13B", num_layers=40, num_qo_heads=40, num_kv_heads=40, head_dim=128
        ),
        12,
        15_700,
    ),
    (
        ModelShape(
            name="opt-66b", title="OPT-66B", num_layers=64, num_qo_heads=72, num_kv_heads=72, head_dim=128
        ),
        21,
        9_700,
    ),
    (
        ModelShape(
            name="opt-175b", title="OPT-175B", num_layers=96, num_qo_heads=96, num_kv_heads=96, head_dim=128
        ),
        264,
        60_100,
    ),
)
"""Table 1: model, GB of cache, slots; shapes from OPT (arXiv 2205.01068), table 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Lengths like those of a data set of the paper.

    Attributes:
        name: as in the figures.
        prompt_mean, output_mean: figure 11.
        prompt_cv, output_cv: of the lognormal that is clipped; chosen so that figure 2's bars for Orca (Max)
            follow, which fix the second moment of the output.
    """

    name: str
    prompt_mean: float
    output_mean: float
    prompt_cv: float
    output_cv: float


SHAREGPT = Dataset(name="sharegpt", prompt_mean=161.31, output_mean=337.99, prompt_cv=1.6, output_cv=0.97)
ALPACA = Dataset(name="alpaca", prompt_mean=19.31, output_mean=58.45, prompt_cv=0.6, output_cv=0.9)


def paper_requests(dataset: Dataset, *, count: int, seed: int) -> Requests:
    """Return requests that are all there at once.

    Prompts of 4 to 1,024 tokens, 2,048 at most together with the output, both lognormal and scaled until the
    clipped means are those of the paper.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x509]))
    raw = [_lognormal(rng, count, cv) for cv in (dataset.prompt_cv, dataset.output_cv)]
    prompt = _scaled(raw[0], dataset.prompt_mean, np.full(count, 4), np.full(count, 1024))
    output = _scaled(raw[1], dataset.output_mean, np.ones(count), MAX_TOKENS - prompt)
    return Requests(name=f"{dataset.name}-like", prompt_tokens=prompt, output_tokens=output)


def orca_max_closed_form(requests: Requests, slots: int = POOL_SLOTS) -> dict[str, float]:
    """Return batch and shares of Orca (Max) for a queue that never ends.

    n = floor(M / T) requests run at any time; a request is met in proportion to its o decode steps, so that a
    running one has I_w = E[I O] / E[O] prompt tokens and R = E[O^2] / (2 E[O]) of its output, and as many to
    come.  Shares: tokens n (I_w + R) / M, reserved n R / M, internal n (T - I_w - 2 R) / M, external what is
    left.
    """
    prompt, output = (np.asarray(x, np.float64) for x in (requests.prompt_tokens, requests.output_tokens))
    batch = slots // MAX_TOKENS
    seen, age = (prompt * output).sum() / output.sum(), (output**2).sum() / (2 * output.sum())
    share = batch / slots
    return {
        "batch": float(batch),
        "tokens_share": float(share * (seen + age)),
        "reserved_share": float(share * age),
        "internal_share": float(share * (MAX_TOKENS - seen - 2 * age)),
        "external_share": 1 - share * MAX_TOKENS,
    }


def _lognormal(rng: np.random.Generator, count: int, cv: float) -> Array:
    sigma2 = float(np.log1p(cv**2))
    return np.asarray(rng.lognormal(-sigma2 / 2, sigma2**0.5, count))


def _scaled(raw: Array, mean: float, low: Array, high: Array) -> Array:
    """Whole numbers in ``[low, high]`` whose mean is ``mean``, as nearly as rounding lets it be."""
    scale = mean
    for _ in range(60):
        drawn = np.clip(np.rint(raw * scale), low, high)
        scale *= mean / float(drawn.mean())
    return np.asarray(np.clip(np.rint(raw * scale), low, high).astype(np.int64))
