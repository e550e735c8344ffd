"""The Scheduler: jobs that call Python handlers."""
