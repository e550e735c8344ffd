"""WHO RUNS: workers take runs from the run queue and call handlers."""
