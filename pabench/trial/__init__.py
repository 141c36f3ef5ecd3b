# SPDX-License-Identifier: Apache-2.0
"""``pabench.check``: a callable of this program judged, for scripts, notebooks and tests."""
