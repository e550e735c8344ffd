"""Endings of tries on their way to the store.

Who is authoritative: the store; it refuses the ending of a try that somebody else has taken over. States of an ending:
*waiting*, *on its way* (part of the one batch that is being stored), gone. The store away: the batch is tried again
with growing pauses, for as long as it takes, and what ends meanwhile waits; the worker claims nothing more when that is
too much. An answer that was lost: the same batch again, which changes nothing. A batch that the store cannot take: its
endings one by one, and one that is refused even so without its texts, for a run must not stay open because of them.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import msgspec

from natscron.errors import NatscronError, StorageError
from natscron.model import Claim, Ending, Job
from natscron.storage.queue import QueueStorage

__all__ = ["Outbox"]

log = logging.getLogger("natscron.worker")

_RETRY_FIRST_S: Final = 0.05
_RETRY_MAX_S: Final = 2.0
_BATCH: Final = 500
_UNSTORABLE: Final = "what the handler gave or raised cannot be stored"

_Entry: TypeAlias = tuple[Job | None, Claim, Ending]


class Outbox:
    """One worker's. ``told`` is called with each ending that was stored, ``room`` when some are gone."""

    def __init__(
        self,
        storage: QueueStorage,
        worker: str,
        told: Callable[[Job | None, Claim, Ending], None],
        room: Callable[[], None],
    ) -> None:
        self._store = storage
        self._worker = worker
        self._told = told
        self._room = room
        self._waiting: list[_Entry] = []
        self._sending: Sequence[_Entry] = ()
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        """How many are not stored yet."""
        return len(self._waiting) + len(self._sending)

    def keys(self) -> set[tuple[str, int]]:
        """The tries whose endings are not stored yet."""
        return {(ending.run_id, ending.attempt) for _, _, ending in (*self._waiting, *self._sending)}

    def put(self, job: Job | None, claim: Claim, ending: Ending) -> None:
        """A try is over."""
        self._waiting.append((job, claim, ending))
        self._empty.clear()
        self._filled.set()

    async def emptied(self) -> None:
        """Wait until all are stored."""
        await self._empty.wait()

    async def run(self) -> None:
        """Store, for ever."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._waiting:
                batch = self._waiting[:_BATCH]
                del self._waiting[:_BATCH]
                self._sending = batch
                await self._store_batch(batch)
                self._sending = ()
                self._room()
            self._empty.set()

    async def _store_batch(self, batch: Sequence[_Entry]) -> None:
        endings = [ending for _, _, ending in batch]
        delay = _RETRY_FIRST_S
        tries = 0
        while True:
            try:
                stored = await self._store.finish(self._worker, endings)
            except (StorageError, TimeoutError) as error:
                tries += 1
                log.warning("ends of runs cannot be stored now", extra={"runs": len(batch), "error": str(error)})
                await asyncio.sleep(delay)
                delay = min(delay * 2, _RETRY_MAX_S)
            except NatscronError:
                log.exception("ends of runs cannot be stored", extra={"runs": [e.run_id for e in endings]})
                await self._store_plainly(batch)
                return
            else:
                break
        for (job, claim, ending), mine in zip(batch, stored, strict=True):
            # After a failure whose outcome is not known, what is not ours any more may have been stored then.
            if mine or tries:
                self._told(job, claim, ending)
            else:
                log.warning(
                    "a run was taken over; its end is not stored", extra={"run": claim.run_id, "job": claim.job}
                )

    async def _store_plainly(self, batch: Sequence[_Entry]) -> None:
        for job, claim, ending in batch:
            plain = msgspec.structs.replace(ending, error=_UNSTORABLE, result=None)
            if len(batch) > 1:
                await self._store_batch([(job, claim, ending)])
            elif ending != plain:
                await self._store_batch([(job, claim, plain)])
