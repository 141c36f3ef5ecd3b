# SPDX-License-Identifier: Apache-2.0
"""Attention plugins of serving engines as backends: driven as the engine drives them, with or without it."""
