# SPDX-License-Identifier: Apache-2.0
"""Attention backends under test: our own kernels and adapters."""
