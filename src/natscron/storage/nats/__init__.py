"""Jobs, lease, journal and history in NATS JetStream."""
