"""The NATS Cron service."""
