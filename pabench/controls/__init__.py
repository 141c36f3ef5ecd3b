# SPDX-License-Identifier: Apache-2.0
"""Positive controls: kernels with one planted fault each, and right ones that look as if they had one."""
