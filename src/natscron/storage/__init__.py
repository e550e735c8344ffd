"""WHERE jobs, leases, runs and history live."""
