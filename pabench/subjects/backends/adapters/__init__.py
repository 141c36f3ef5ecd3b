# SPDX-License-Identifier: Apache-2.0
"""Attention kernels of other projects behind our protocol."""
