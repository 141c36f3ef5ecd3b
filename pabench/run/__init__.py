# SPDX-License-Identifier: Apache-2.0
"""Run directories: journal, schema version, provenance."""
