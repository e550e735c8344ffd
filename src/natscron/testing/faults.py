"""Faults for the memory storage: what networks, hosts and servers really do, on demand."""

import asyncio
import random

from natscron.errors import StorageUncertainError
from natscron.model import Lease
from natscron.storage.memory import MemoryCluster, MemoryLink, MemoryStorage
from natscron.storage.protocol import LeaderLink, OnReply


class FaultyLink(MemoryLink):
    """A link that can be cut between any two writes, and whose next lease answer can get lost."""

    lose_lease_answers = 0

    def cut(self, rng: random.Random) -> None:
        """Some of what is queued arrives, the rest is lost: a killed process, or a reset connection."""
        for _ in range(rng.randint(0, len(self._writes))):
            self._writes.popleft()()
        self.abort()

    async def write_lease(self, lease: Lease, expected_revision: int) -> int:
        """As the base class; while answers are to be lost, it is written and nobody is told."""
        revision = await super().write_lease(lease, expected_revision)
        if self.lose_lease_answers:
            self.lose_lease_answers -= 1
            raise StorageUncertainError("the answer was lost")
        return revision


class FaultyStorage(MemoryStorage):
    """A client whose links and watches can be broken."""

    def __init__(self, cluster: MemoryCluster, latency_s: float = 0.001) -> None:
        super().__init__(cluster, latency_s)
        self.faulty_links: list[FaultyLink] = []

    async def open_link(self, on_reply: OnReply) -> LeaderLink:
        """A link that can be broken."""
        await asyncio.sleep(self.latency_s)
        self.cluster.ensure_up()
        link = FaultyLink(self.cluster, on_reply, self.latency_s, self._left_out)
        self.faulty_links = [whole for whole in self.faulty_links if not whole.broken.is_set()] + [link]
        self.links = list(self.faulty_links)
        return link

    def cut(self, rng: random.Random) -> None:
        """Cut every link somewhere in what it has queued."""
        for link in self.faulty_links:
            if not link.broken.is_set():
                link.cut(rng)

    def deafen(self) -> None:
        """Every watch falls silent."""
        for watch in self.watches:
            watch.deaf = True
