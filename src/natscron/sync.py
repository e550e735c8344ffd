"""The synchronous twin of the Scheduler."""
