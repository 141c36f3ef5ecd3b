# SPDX-License-Identifier: Apache-2.0
"""Page allocators of other projects behind our protocol."""
