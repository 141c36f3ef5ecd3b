# SPDX-License-Identifier: Apache-2.0
"""Forms in which others state kernels, their inputs and results: FlashInfer Trace, submission packages."""
