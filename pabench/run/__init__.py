"""Run directories: journal, schema version, provenance."""
