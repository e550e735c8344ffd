"""A distributed, highly available job scheduler on NATS JetStream."""

__version__ = "0.1.0"
