# SPDX-License-Identifier: Apache-2.0
"""Packages of other projects: where they are, which version, and how a part of one is imported alone."""
