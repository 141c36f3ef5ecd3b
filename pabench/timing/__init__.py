# SPDX-License-Identifier: Apache-2.0
"""Host clocks, GPU specifications and the roofline model."""
