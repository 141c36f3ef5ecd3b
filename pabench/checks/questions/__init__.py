# SPDX-License-Identifier: Apache-2.0
"""The suite's questions by topic; ``suite.py`` puts them together."""
