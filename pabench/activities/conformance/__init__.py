# SPDX-License-Identifier: Apache-2.0
"""Checks of backends and allocators, and the runner of the conformance suite."""
