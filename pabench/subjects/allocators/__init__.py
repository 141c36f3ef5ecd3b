# SPDX-License-Identifier: Apache-2.0
"""Page allocators under test, and the reference model they are compared with."""
