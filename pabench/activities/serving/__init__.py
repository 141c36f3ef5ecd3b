# SPDX-License-Identifier: Apache-2.0
"""A server without a model: workload, scheduler, allocator under test, executor, step by step."""
