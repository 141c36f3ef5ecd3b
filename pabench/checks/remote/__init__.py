# SPDX-License-Identifier: Apache-2.0
"""Subjects in processes of their own, as checks see them: proxies with the same protocols."""
