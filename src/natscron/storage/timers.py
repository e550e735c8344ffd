"""A further role of a store of the library: timers that fire though no process of ours is alive."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from natscron.model import Ms
from natscron.storage.protocol import Watch

__all__ = ["Firing", "LaidTimer", "TimerSink", "TimerStore"]


class LaidTimer(msgspec.Struct, frozen=True):
    """What the store is to fire, or fires. ``since``: the number of the write that the job's schedule counts from.

    A job's timer is never changed: another schedule is another timer, under another ``since``. ``text`` and ``tz`` are
    the store's own words for it. ``at_ms``: the instant of one that fires once.
    """

    job: str
    since: int
    text: str
    tz: str = ""
    at_ms: Ms | None = None


class Firing(msgspec.Struct, frozen=True):
    """A timer fired. ``next_ms``: when it fires next, of one that recurs; ``at_ms``: when one that does not was due.

    ``seq`` orders firings. Only the newest firing of a job is kept, and one may be told twice.
    """

    job: str
    since: int
    seq: int
    next_ms: Ms | None = None
    at_ms: Ms | None = None


class TimerSink(Protocol):
    """Receives the firings of a watch. Called in the event loop."""

    def fired(self, firing: Firing) -> None:
        """A timer fired, now or while nobody looked."""
        ...


class TimerStore(Protocol):
    """Timers in the store: laid down and taken away by anybody, their firings taken by the leader alone.

    Who is authoritative: the jobs. A timer that is missing, or too many, does no harm that lasts: the leader goes
    through the same slots a little later, and takes no firing for a run that the job's row does not call for.
    """

    async def check_timers(self, *, recurring: bool) -> None:
        """Make what timers need, if it is not there.

        Raises ServerTooOldError, ConfigError, and StorageUnavailableError.
        """
        ...

    async def has_timers(self) -> bool:
        """Whether there is anything of timers here; if not, none was ever laid."""
        ...

    async def lay_timer(self, timer: LaidTimer) -> None:
        """Have this timer, and none of the job's earlier ones. One that is there is left alone."""
        ...

    async def take_timers(self, job: str, since: int | None = None) -> None:
        """Take a job's timers away, or the one of ``since``. Idempotent."""
        ...

    async def read_timers(self) -> Sequence[LaidTimer]:
        """All that are there."""
        ...

    async def settle_firings(self, seq: int) -> None:
        """Firings up to ``seq`` are decided: forget them."""
        ...

    def watch_firings(self, sink: TimerSink) -> Watch:
        """Follow the firings, those that are not settled first."""
        ...
