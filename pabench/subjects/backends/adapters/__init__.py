"""Attention kernels of other projects behind our protocol."""
