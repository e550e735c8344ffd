"""Jobs, lease, journal and history in NATS JetStream."""

from natscron.storage.nats.options import NatsStorageOptions
from natscron.storage.nats.storage import NatsStorage

__all__ = ["NatsStorage", "NatsStorageOptions"]
