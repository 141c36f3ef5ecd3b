"""Checks of backends and allocators, and the runner of the conformance suite."""
