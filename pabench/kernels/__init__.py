# SPDX-License-Identifier: Apache-2.0
"""Launch plans of pabench's own kernels: pure functions from a problem to grid, block and arguments."""
