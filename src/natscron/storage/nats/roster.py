"""The workers that are alive, as this process knows them.

Whether one is alive is judged by this host's own clock, from when its announcement was last seen to change. Silence
says something only as long as the store takes announcements at all: a stream between two leaders takes none for
seconds, from nobody. So a worker that is silent for its lease is not asked for any more, but it is taken for dead, and
its runs are given to others, only when others were heard all the while for half of that lease, and by way of the watch
that would tell of it too.
"""

import logging
from collections.abc import Iterable
from typing import Final

import msgspec

from natscron.clock import Clock
from natscron.model import Ms, WorkerInfo

__all__ = ["Announcement", "Roster", "encode_announcement"]

logger = logging.getLogger("natscron.storage")


_GAP: Final = 0.4
"""Of a lease: nobody heard for so long is a gap; each announces itself every sixth."""
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
        self._seq = 0
        """The newest announcement that the watch handed over."""
        self._last_s = 0.0
        """When that was."""
        self._patience_s = 0.0
        """How long it may take until somebody is heard again."""
        self._steady_s = float("-inf")
        """Since when there was no gap."""

    def read(self, worker: str, data: bytes | None, seq: int) -> None:
        """The watch handed an announcement over, or its end."""
        try:
            said = None if data is None else _decoder.decode(data)
        except (msgspec.MsgspecError, ValueError) as error:
            logger.warning("a worker's announcement cannot be used: %s", error)
            return
        if said is not None:
            self._heard(said.worker.lease_ms, seq)
            self.announced(said, seq)
        elif (known := self._workers.get(worker)) is not None and known.seq < seq:
            del self._workers[worker]

    def _heard(self, lease_ms: Ms, seq: int) -> None:
        """Somebody was heard by way of the store and the watch: what others say comes through as well."""
        if seq <= self._seq:
            return  # read once more by a watch that was made anew
        now_s, patience_s = self._clock.trust_s(), _GAP * lease_ms / 1_000
        if self._seq and now_s - self._last_s > max(self._patience_s, patience_s):
            self._steady_s = now_s
        self._seq, self._last_s, self._patience_s = seq, now_s, patience_s

    def announced(self, said: Announcement, seq: int) -> None:
        """A worker gave a sign of life; said to us before the watch tells, if it is our own."""
        known = self._workers.get(said.worker.id)
        if known is None or known.seq < seq:
            self._workers[said.worker.id] = _Worker(said, seq, self._clock.trust_s())

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
