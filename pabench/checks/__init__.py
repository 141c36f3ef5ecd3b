# SPDX-License-Identifier: Apache-2.0
"""The checks of the suite: what each asks of one case, and what its answer means."""
