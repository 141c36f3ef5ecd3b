# SPDX-License-Identifier: Apache-2.0
"""Submission packages: a run with its waivers and a statement, which anybody can verify offline."""
