# SPDX-License-Identifier: Apache-2.0
"""A subject in a process of its own, which answers calls; nothing of the judge is in it."""
