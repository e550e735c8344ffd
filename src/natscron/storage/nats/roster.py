"""The workers that are alive, as this process knows them.

Whether one is alive is judged by this host's own clock, from when its announcement was last seen to change. Silence
says something only as long as the store takes announcements at all: a stream between two leaders takes none for
seconds, from nobody. So a worker that is silent for its lease is not asked for any more, but it is taken for dead, and
its runs are given to others, only when others were heard all the while for half of that lease.
"""

import logging
from collections.abc import Iterable
from typing import Final

import msgspec

from natscron.clock import Clock
from natscron.model import WorkerInfo

__all__ = ["Announcement", "Roster", "encode_announcement"]

logger = logging.getLogger("natscron.storage")


_GAP: Final = 0.4
"""Of a lease: nobody heard for so long is a gap; each announces itself every third."""
_STEADY: Final = 0.5
_FORGOTTEN_S: Final = 600.0


class Announcement(msgspec.Struct, frozen=True):
    """A worker's sign of life. ``node`` is the same for all workers that claim through one storage."""

    worker: WorkerInfo
    node: str


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Announcement)


class _Worker:
    __slots__ = ("heard_s", "info", "node", "seq")

    def __init__(self, said: Announcement, seq: int, heard_s: float) -> None:
        self.info = said.worker
        self.node = said.node
        self.seq = seq
        self.heard_s = heard_s


class Roster:
    """Workers by id; forgets those that are dead for long."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._workers: dict[str, _Worker] = {}
        self._last_s = 0.0
        """When anybody was last heard; 0: never."""
        self._patience_s = 0.0
        """How long it may take until somebody is heard again."""
        self._steady_s = float("-inf")
        """Since when there was no gap."""

    def read(self, worker: str, data: bytes | None, seq: int) -> None:
        """An announcement in the store, or its end."""
        known = self._workers.get(worker)
        if known is not None and known.seq >= seq:
            return
        if data is None:
            self._workers.pop(worker, None)
            return
        try:
            self.announced(_decoder.decode(data), seq)
        except (msgspec.MsgspecError, ValueError) as error:
            logger.warning("a worker's announcement cannot be used: %s", error)

    def announced(self, said: Announcement, seq: int) -> None:
        """A worker gave a sign of life."""
        known = self._workers.get(said.worker.id)
        if known is None or known.seq < seq:
            now_s = self._clock.trust_s()
            if self._last_s and now_s - self._last_s > max(self._patience_s, _GAP * said.worker.lease_ms / 1_000):
                self._steady_s = now_s
            self._last_s, self._patience_s = now_s, _GAP * said.worker.lease_ms / 1_000
            self._workers[said.worker.id] = _Worker(said, seq, now_s)

    def retired(self, worker: str) -> None:
        """A worker took its announcement back."""
        self._workers.pop(worker, None)

    def clear(self) -> None:
        """Nobody is known."""
        self._workers.clear()

    def alive(self) -> list[WorkerInfo]:
        """Those that are alive."""
        return [one.info for one in self._alive()]

    def nodes(self, handler: str) -> list[str]:
        """The storages through which live workers with this handler claim, in an order that is the same for all."""
        return sorted({one.node for one in self._alive() if handler in one.info.handlers})

    def find(self, worker: str) -> WorkerInfo | None:
        """What a worker said of itself, alive or not."""
        found = self._workers.get(worker)
        return None if found is None else found.info

    def dead(self, worker: str) -> bool:
        """Whether its runs are to be given to others."""
        known = self._workers.get(worker)
        if known is None:
            return True
        now_s, lease_s = self._clock.trust_s(), known.info.lease_ms / 1_000
        heard_others = now_s - self._last_s <= self._patience_s and now_s - self._steady_s >= _STEADY * lease_s
        return now_s - known.heard_s > lease_s and heard_others

    def _alive(self) -> Iterable[_Worker]:
        now_s = self._clock.trust_s()
        for name, one in list(self._workers.items()):
            silent_s = now_s - one.heard_s
            if silent_s <= one.info.lease_ms / 1_000:
                yield one
            elif silent_s > _FORGOTTEN_S and self.dead(name):
                del self._workers[name]


def encode_announcement(said: Announcement) -> bytes:
    """As it lies in the store."""
    return _encoder.encode(said)
