"""The reference storage: one process's memory. What it does is what every other storage must do.

A :class:`MemoryCluster` stands for the servers: it holds the rows, gives each write its sequence and timestamp, and
delivers messages. Each :class:`MemoryStorage` is one client of it, so that several instances in one process can share
a cluster, as the simulation does. Nothing survives the process.

A link's writes reach the cluster one after the other, each one loop turn (or ``latency_s``) after the one before;
cutting the link throws away what has not arrived. That is the order and the prefix that a NATS connection gives.
"""

from natscron.storage.memory.cluster import MemoryCluster
from natscron.storage.memory.link import MemoryLink
from natscron.storage.memory.storage import MemoryStorage

__all__ = ["MemoryCluster", "MemoryLink", "MemoryStorage"]
