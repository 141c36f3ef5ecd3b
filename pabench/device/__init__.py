# SPDX-License-Identifier: Apache-2.0
"""Devices: memory, compile, launch; CUDA hardware and its emulation behind one protocol."""
