"""Attention backends under test: our own kernels and adapters."""
