"""Jobs, leases, run queue and history in a SQL database: SQLite, PostgreSQL, MySQL or MariaDB."""
