"""A scheduler on virtual time, for tests of programs that use one: a night passes at once, and ends as it would.

::

    async def main(scheduler: VirtualScheduler) -> None:
        calls = []
        scheduler.set_handler(calls.append)
        await scheduler.add_job("nightly", cron("0 3 * * *"))
        await scheduler.advance("25h")
        assert [event.scheduled_at.hour for event in calls] == [3]


    run_virtual(main)

It keeps its jobs in memory and lives on a :class:`~natscron.testing.virtual.VirtualLoop` of its own, where time passes
only while nothing is left to do: in :meth:`VirtualScheduler.advance`, and in whatever else a test waits for. Handlers
that sleep do so in virtual time; those that are not async run in threads, and time stands still while they do. What
reads the system's clock, and real sockets, have no part in it. Under pytest there is the fixture ``natscron_scheduler``
(:mod:`natscron.testing.plugin`), which does the same.
"""

import asyncio
import contextlib
import datetime as dt
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final, TypedDict, TypeVar, Unpack

import msgspec

from natscron.scheduler import Scheduler
from natscron.scheduler.parts import Parts
from natscron.scheduler.values import Duration, instant_ms, millis
from natscron.storage.memory import MemoryCluster, MemoryStorage
from natscron.testing.virtual import EPOCH_S, VirtualClock, VirtualLoop
from natscron.worker.registry import Handler

__all__ = ["VirtualOptions", "VirtualScheduler", "run_virtual", "virtual_scheduler"]

T = TypeVar("T")

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MS: Final = dt.timedelta(milliseconds=1)
_RUNS_PER_JOB: Final = 10_000
_CALM: Final = 1_800
_WORKER_LEASE_MS: Final = 1_800_000
_LONGEST: Final = "24h"


class _Options(TypedDict, total=False):
    name: str
    instance: str
    concurrency: int
    grace: Duration
    stop_timeout: Duration
    strict: bool


class VirtualOptions(_Options, total=False):
    """Options of a scheduler on virtual time; but for ``now`` those of :class:`natscron.Scheduler`."""

    now: dt.datetime
    """When it begins; default 2027-01-15 08:00 UTC."""


class VirtualScheduler(Scheduler):
    """A :class:`natscron.Scheduler` in memory, on a virtual loop (default: the one that runs).

    It may be started without any handler. A run whose handler nobody has is shown as waiting for it within ten minutes,
    and the history keeps 10,000 records of each job.
    """

    def __init__(
        self,
        handler: Handler | None = None,
        *,
        loop: VirtualLoop | None = None,
        now: dt.datetime | None = None,
        **options: Unpack[_Options],
    ) -> None:
        found = loop or asyncio.get_running_loop()
        if not isinstance(found, VirtualLoop):
            raise RuntimeError(  # noqa: TRY004 - the type of no argument, but where it was called
                "a VirtualScheduler lives on a VirtualLoop: use run_virtual(), virtual_scheduler() or the pytest "
                "fixture natscron_scheduler"
            )
        self.loop = found
        offset_s = 0.0 if now is None else instant_ms(now, "now") / 1000 - EPOCH_S - found.time()
        self.clock = VirtualClock(found, offset_s)
        storage = MemoryStorage(MemoryCluster(self.clock, runs_per_job=_RUNS_PER_JOB))
        super().__init__(storage, handler, clock=self.clock, **options)
        self.storage = storage
        # Nobody is there who could take over, so looking around would only cost.
        self._options = msgspec.structs.replace(
            self._options,
            needs_handler=False,
            calm=_CALM,
            lease_ms=2_000 * _CALM,
            worker_lease_ms=_WORKER_LEASE_MS,
        )

    @property
    def now(self) -> dt.datetime:
        """The instant that it is."""
        return _EPOCH + self.clock.now_ms() * _MS

    async def advance(self, duration: Duration) -> None:
        """Let ``duration`` (``1h30m``, a timedelta, seconds) pass, with all that is due in it.

        Everything due up to and including the new :attr:`now` has begun when this returns, and what takes no time has
        ended; a handler that sleeps for longer goes on.
        """
        await self._reach(self.clock.now_ms() + millis(duration, "duration"))

    async def advance_to(self, moment: dt.datetime) -> None:
        """:meth:`advance` until ``moment``; nothing if it is past."""
        await self._reach(instant_ms(moment, "moment"))

    async def _reach(self, at_ms: int) -> None:
        self._check_loop()
        # What was asked for just now is taken up first, so that it counts from this instant.
        await self.loop.settle()
        delay_s = at_ms / 1000 - self.clock.now_s()
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        await self.loop.settle()

    async def settle(self) -> None:
        """Return when all that is due by now has begun, and what takes no time has ended."""
        self._check_loop()
        await self.loop.settle()

    async def finish(self, at_most: Duration = _LONGEST) -> None:
        """Let time pass until no run is going, due or waiting, retries included; TimeoutError after ``at_most``.

        A backfill hands its slots out one after the other, each 100 ms: advance for that.
        """
        self._check_loop()
        last_ms = self.clock.now_ms() + millis(at_most, "at_most")
        await self.loop.settle()
        while next(self.storage.cluster.queue.open_runs(None), None) is not None:
            if self.clock.now_ms() >= last_ms:
                raise TimeoutError(f"runs were still going or waiting after {at_most}")
            await self.loop.jump()
            await self.loop.settle()

    def sleep(self, duration: Duration) -> None:
        """For a handler that is not async: ``time.sleep`` in virtual time."""
        self.loop.block(millis(duration, "duration") / 1000)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, from a test that is not async; what it gives."""
        return self.loop.run_until_complete(main)

    async def include(self, other: Scheduler) -> None:
        """Take over the handlers, listeners and jobs of a scheduler that is not started: that of a program.

        Its storage and options are left alone. Jobs are ensured.
        """
        # Of its own kind.
        for name in other._registry.names:  # noqa: SLF001 - see above
            if (found := other._registry.find(name)) is not None:  # noqa: SLF001 - see above
                self._registry.set(name, found[0])
        for event, fn in other._events.listeners():  # noqa: SLF001 - see above
            self.on(event, fn)
        for job in other._pending.jobs():  # noqa: SLF001 - see above
            await self._running_parts().jobs.ensure(job)

    def _running_parts(self) -> Parts:
        self._check_loop()
        return super()._running_parts()

    def _check_loop(self) -> None:
        try:
            here: object = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is not self.loop:
            raise RuntimeError(
                "this scheduler lives on a virtual loop of its own: call it in an async test that asks for "
                "natscron_scheduler, or through its run()"
            )


@contextlib.contextmanager
def virtual_scheduler(handler: Handler | None = None, **options: Unpack[VirtualOptions]) -> Iterator[VirtualScheduler]:
    """A running scheduler on a loop of its own, to be used through :meth:`VirtualScheduler.run`; stopped at the end."""
    loop = VirtualLoop()
    try:
        scheduler = VirtualScheduler(handler, loop=loop, **options)
        try:
            scheduler.run(scheduler.start())
            yield scheduler
        finally:
            scheduler.run(scheduler.stop())
    finally:
        _close(loop)


def run_virtual(
    main: Callable[[VirtualScheduler], Awaitable[T]], handler: Handler | None = None, **options: Unpack[VirtualOptions]
) -> T:
    """Call ``main`` with a running scheduler on virtual time; what it gives."""

    async def call(scheduler: VirtualScheduler) -> T:
        return await main(scheduler)

    with virtual_scheduler(handler, **options) as scheduler:
        return scheduler.run(call(scheduler))


def _close(loop: VirtualLoop) -> None:
    """End what a test left behind, and the loop."""
    try:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
