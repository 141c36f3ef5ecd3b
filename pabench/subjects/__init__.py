# SPDX-License-Identifier: Apache-2.0
"""What is judged: kernels of attention and page allocators, ours and those of other projects."""
