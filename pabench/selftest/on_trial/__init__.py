"""Other projects' test suites on trial: which planted faults their inputs and tolerances would see."""
