# SPDX-License-Identifier: Apache-2.0
"""Dense float64 truth, error bound, verdict and traffic."""
