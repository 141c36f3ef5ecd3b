# SPDX-License-Identifier: Apache-2.0
"""PTX on the host: parse it, translate it to C++ over the emulated device's runtime, run it."""
