"""Sweeps: grid, cells, journal."""
