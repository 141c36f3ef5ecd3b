# SPDX-License-Identifier: Apache-2.0
"""Runs as tables: what pandas does for people who look at results, and for the report."""
