"""Does the suite itself catch faults: planted ones, generated ones, simulated right kernels."""
