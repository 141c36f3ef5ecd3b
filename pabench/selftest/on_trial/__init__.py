# SPDX-License-Identifier: Apache-2.0
"""Other projects' test suites on trial: which planted faults their inputs and tolerances would see."""
