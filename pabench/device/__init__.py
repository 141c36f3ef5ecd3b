"""Devices: memory, compile, launch; CUDA hardware and its emulation behind one protocol."""
