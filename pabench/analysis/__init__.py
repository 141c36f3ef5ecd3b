"""Runs as tables: what pandas does for people who look at results, and for the report."""
