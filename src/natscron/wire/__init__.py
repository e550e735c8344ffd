"""NATS, and nothing above it."""
