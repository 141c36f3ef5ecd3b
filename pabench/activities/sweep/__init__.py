# SPDX-License-Identifier: Apache-2.0
"""Sweeps: grid, cells, journal."""
