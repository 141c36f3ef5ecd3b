# SPDX-License-Identifier: Apache-2.0
"""Our tensor-core kernels with every sequence cut at fixed places."""

from __future__ import annotations

from pabench.device.base import Device
from pabench.subjects.backends.rawkernel_mma import RawKernelMmaBackend

SPLIT_TOKENS = 256


class RawKernelMmaFixedBackend(RawKernelMmaBackend):
    """As ``rawkernel-mma``, but decode cuts each sequence after every 256 tokens, whatever the batch.

    A sequence's bits then do not depend on its batch, nor on the size of the GPU; blocks have unequal shares
    of the work in return.
    """

    name = "rawkernel-mma-fixed"

    def __init__(self, device: Device) -> None:
        super().__init__(device, split_tokens=SPLIT_TOKENS)
