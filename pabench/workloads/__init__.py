"""Workloads read from files: shipped quantile tables and request traces."""
