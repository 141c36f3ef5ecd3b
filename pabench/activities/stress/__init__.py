# SPDX-License-Identifier: Apache-2.0
"""Stress of page allocators: many requests, full pools, fragmentation over time; what hangs is a result."""
