"""A server without a model: workload, scheduler, allocator under test, executor, step by step."""
