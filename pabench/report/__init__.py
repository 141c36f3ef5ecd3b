# SPDX-License-Identifier: Apache-2.0
"""Journal to view model to charts to one HTML file."""
