# SPDX-License-Identifier: Apache-2.0
"""A real language model end to end: its attention through our kernels, its cache in an allocator's pages."""
