"""pabench: conformance suite and benchmark for paged attention kernels and KV-cache page allocators."""

__version__ = "0.1.0"
