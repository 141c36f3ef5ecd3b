"""A backend that returns zeros and tampers with the judge in its own process: must be FAILED all the same."""

import sys

import numpy as np


def decode(q, k_cache, v_cache, block_table, kv_lens, sm_scale):
    for name in ("pabench.judge.verdict", "pabench.oracle.verdict"):
        verdict = sys.modules.get(name)
        if verdict is not None:
            verdict.error_ratios = lambda got, expected, bound, dtype: np.zeros(np.shape(got))
    return np.zeros_like(q), np.zeros(q.shape[:2], np.float32)
