# SPDX-License-Identifier: Apache-2.0
"""What pabench can be asked to do: each activity is a plug for the engine of ``run``."""
