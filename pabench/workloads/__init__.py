# SPDX-License-Identifier: Apache-2.0
"""Workloads read from files: shipped quantile tables and request traces."""
