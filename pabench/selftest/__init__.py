# SPDX-License-Identifier: Apache-2.0
"""Does the suite itself catch faults: planted ones, generated ones, simulated right kernels."""
