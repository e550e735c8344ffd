"""What the tests of the Scheduler share: handlers that remember, and schedulers on virtual time."""

import asyncio
import datetime as dt
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from natscron import JobEvent, MemoryStorage, Run, Scheduler, once
from natscron.model import ScheduleSpec
from natscron.storage.memory import MemoryCluster
from natscron.testing import virtual
from natscron.testing.scheduler import VirtualScheduler
from natscron.testing.virtual import VirtualClock

BEGIN = dt.datetime(2027, 1, 15, 8, tzinfo=dt.UTC)
"""When virtual time begins."""
NEVER: ScheduleSpec = once(dt.datetime(2090, 1, 1, tzinfo=dt.UTC))
"""Not within any test: a job that is only triggered."""


def at(seconds: float) -> dt.datetime:
    """So long after virtual time began."""
    return BEGIN + dt.timedelta(seconds=seconds)


class Spy:
    """An async handler: remembers its events, how many go at once, and takes ``lasts_s``; raises ``error``."""

    def __init__(self, lasts_s: float = 0.0, error: BaseException | None = None) -> None:
        self.lasts_s = lasts_s
        self.error = error
        self.events: list[JobEvent] = []
        self.ended: list[str] = []
        self.cancelled: list[str] = []
        self.at_once = 0
        self.most = 0
        self.gives: Any = None

    async def __call__(self, event: JobEvent) -> object:
        self.events.append(event)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await asyncio.sleep(self.lasts_s)
        except asyncio.CancelledError:
            self.cancelled.append(event.run_id)
            raise
        finally:
            self.at_once -= 1
        self.ended.append(event.run_id)
        if self.error is not None:
            raise self.error
        return self.gives

    @property
    def slots(self) -> list[dt.datetime]:
        """Which slots it was called for."""
        return [event.scheduled_at for event in self.events]


class Told:
    """Everything that a scheduler tells, in order."""

    def __init__(self, scheduler: Scheduler, *events: str) -> None:
        self.all: list[tuple[str, Any]] = []
        for event in events:
            scheduler.on(event, lambda value, event=event: self.all.append((event, value)))

    def of(self, event: str) -> list[Any]:
        """What was told of one event."""
        return [value for name, value in self.all if name == event]


def cluster() -> MemoryCluster:
    """A cluster on the running virtual loop, which several schedulers may share."""
    return MemoryCluster(VirtualClock(asyncio.get_running_loop()), runs_per_job=1_000_000)


def member(shared: MemoryCluster, handler: Any = None, **options: Any) -> Scheduler:  # noqa: ANN401 - as the Scheduler's
    """A scheduler with its own client of a cluster."""
    clock = VirtualClock(asyncio.get_running_loop())
    return Scheduler(MemoryStorage(shared), handler, clock=clock, **options)


def play(story: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a story on virtual time."""
    virtual.run(story())


async def outcome(scheduler: VirtualScheduler, handler: Any, **policies: Any) -> Run:  # noqa: ANN401 - as the Scheduler's
    """How one run of a handler ended."""
    scheduler.set_handler(handler)
    await scheduler.add_job("a", NEVER, **policies)
    run_id = await scheduler.trigger("a")
    await scheduler.finish()
    return await scheduler.get_run(run_id)


def brief(runs: Iterable[Run]) -> list[tuple[int, str, str | None]]:
    """Attempt, status and reason of each record."""
    return [(run.attempt, run.status.value, run.reason) for run in runs]
