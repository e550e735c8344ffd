"""A client of a memory cluster whose calls about the run queue fail, or are answered too late to be heard."""

import asyncio
import random
from collections.abc import Mapping, Sequence

from natscron.errors import StorageError, StorageUnavailableError, StorageUncertainError
from natscron.model import Claim, Claimed, Ending, WorkerInfo
from natscron.storage.memory import MemoryCluster
from natscron.testing.faults import FaultyStorage


class FickleStorage(FaultyStorage):
    """``refuse`` and ``lose``: how likely a call is to do nothing and raise, and to do it and raise, by its name.

    What lies in ``next`` is raised by the next call of that name, after it has had its effect where the error says
    that it may have.
    """

    def __init__(self, cluster: MemoryCluster, rng: random.Random | None = None, latency_s: float = 0.001) -> None:
        super().__init__(cluster, latency_s)
        self.rng = rng or random.Random(0)  # noqa: S311 - no secret
        self.refuse: dict[str, float] = {}
        self.lose: dict[str, float] = {}
        self.next: dict[str, list[Exception]] = {}
        self.hangs = False
        """Announcements are left without an answer."""

    def _before(self, name: str) -> None:
        planned = self.next.get(name, [])
        if planned and not (isinstance(planned[0], StorageError) and planned[0].may_have_happened):
            raise planned.pop(0)
        if self.rng.random() < self.refuse.get(name, 0.0):
            raise StorageUnavailableError(f"{name}: refused by the test")

    def _after(self, name: str) -> None:
        planned = self.next.get(name, [])
        if planned:
            raise planned.pop(0)
        if self.rng.random() < self.lose.get(name, 0.0):
            raise StorageUncertainError(f"{name}: the answer was lost")

    async def claim(self, worker: str, handlers: Sequence[str], limit: int) -> Claimed:
        """As the base class, if nothing goes wrong."""
        self._before("claim")
        claimed = await super().claim(worker, handlers, limit)
        self._after("claim")
        return claimed

    async def finish(self, worker: str, endings: Sequence[Ending]) -> Sequence[bool]:
        """As the base class, if nothing goes wrong."""
        self._before("finish")
        stored = await super().finish(worker, endings)
        self._after("finish")
        return stored

    async def give_back(self, worker: str, claims: Sequence[Claim]) -> None:
        """As the base class, if nothing goes wrong."""
        self._before("give_back")
        await super().give_back(worker, claims)
        self._after("give_back")

    async def beat(self, worker: WorkerInfo) -> Mapping[tuple[str, int], str]:
        """As the base class, if nothing goes wrong."""
        self._before("beat")
        if self.hangs:
            await asyncio.Event().wait()
        owned = await super().beat(worker)
        self._after("beat")
        return owned

    async def lost(self, limit: int) -> Sequence[Claim]:
        """As the base class, if nothing goes wrong."""
        self._before("lost")
        found = await super().lost(limit)
        self._after("lost")
        return found
