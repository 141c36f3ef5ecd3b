# SPDX-License-Identifier: Apache-2.0
"""The judge of allocators: model, invariants, contents of the cache, and histories of operations."""
