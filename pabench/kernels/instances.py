# SPDX-License-Identifier: Apache-2.0
"""The table of our kernels' instances, which ``pabench kernels`` compiles and shows.

Each kernel module derives its instances from the same functions as its launch plan.  A new kernel is one more
name in ``MODULES``.
"""

from __future__ import annotations

from pabench.kernels import (
    alloc_scan,
    append,
    ceilings,
    decode,
    decode_simple,
    gather,
    instruments,
    latent,
    merge_states,
    page_copy,
    page_pool,
    prefill,
    prefill_wgmma,
)
from pabench.kernels.instance import KernelInstance

MODULES = (
    decode_simple,
    decode,
    latent,
    prefill,
    prefill_wgmma,
    append,
    gather,
    merge_states,
    alloc_scan,
    page_pool,
    page_copy,
    ceilings,
    instruments,
)


def kernel_instances() -> tuple[KernelInstance, ...]:
    """Return every instance: file, macros, and how each entry point is launched."""
    return tuple(instance for module in MODULES for instance in module.instances())
