"""How many messages a second are scheduled in bulk, and what the other calls of message schedules cost.

Run: ``python benchmarks/messages.py [--messages 100000] [--runs 3]``. Wanted: 40,000/s scheduled in bulk on one node,
client and server each a process of its own. Rates are of the whole call, each message acknowledged; beside them stands
the client's processor time for one. The load of the machine is shown before each run: on one that does other work too,
look at the best.
"""

import asyncio
import datetime as dt
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import rig as bench

from natscron.messages import At, MessageScheduler
from natscron.testing.nats import NatsServer

FAR = dt.timedelta(days=30)
BODY = b"x" * 100
SINGLES = 2_000


async def rate(what: str, count: int, runs: int, work: Callable[[int], Awaitable[None]], wanted: str = "") -> None:
    """Do ``work`` ``runs`` times; how often it does ``count`` things a second."""
    rates, used, loads = [], [], []
    for run in range(runs):
        loads.append(os.getloadavg()[0])
        began, own = time.perf_counter(), time.process_time()
        await work(run)
        rates.append(count / (time.perf_counter() - began))
        used.append((time.process_time() - own) / count * 1e6)
    figures = f"best {max(rates):.0f}  median {statistics.median(rates):.0f} /s, {min(used):.1f} us of client each"
    bench.report(what, figures, wanted)
    bench.report("  load before each run", " ".join(f"{load:.1f}" for load in loads))


class Calls:
    """What is measured, on one stream."""

    def __init__(self, schedules: MessageScheduler, messages: int) -> None:
        self.schedules = schedules
        self.messages = messages
        self.due = dt.datetime.fromtimestamp(time.time(), dt.UTC) + FAR

    async def _many(self, items: Iterable[At], count: int) -> None:
        result = await self.schedules.at_many(items)
        if result.scheduled != count:
            raise RuntimeError(f"not scheduled: {result.failed[:3]}")

    async def bulk(self, run: int) -> None:
        """Messages without ids."""
        await self._many((At(f"bench.{run}", self.due, BODY) for _ in range(self.messages)), self.messages)

    async def with_ids(self, run: int) -> None:
        """Messages with ids of their own."""
        items = (At("bench.ids", self.due, BODY, id=f"{run}-{n}") for n in range(self.messages))
        await self._many(items, self.messages)

    async def replaced(self, _: int) -> None:
        """A tenth of them again."""
        count = self.messages // 10
        await self._many((At("bench.ids", self.due, BODY, id=f"0-{n}") for n in range(count)), count)

    async def listed(self, run: int) -> None:
        """All of one target."""
        found = [one async for one in self.schedules.list(f"bench.{run}")]
        if len(found) != self.messages:
            raise RuntimeError(f"{len(found)} of {self.messages} listed")

    async def singles(self, run: int) -> None:
        """One call after the other."""
        for n in range(SINGLES):
            await self.schedules.at(f"bench.single.{run}", self.due, BODY, id=str(n))

    async def cancelled(self, run: int) -> None:
        """What ``singles`` made."""
        for n in range(SINGLES):
            await self.schedules.cancel(f"bench.single.{run}", str(n))


async def measure(messages: int, runs: int) -> None:
    """All figures."""
    with tempfile.TemporaryDirectory(prefix="natscron-bench-") as folder, NatsServer(Path(folder)) as server:
        async with MessageScheduler(server.url, "BENCH") as schedules:
            await schedules.ensure_stream(["bench.>"])
            calls = Calls(schedules, messages)
            await rate(f"at_many, {messages} messages", messages, runs, calls.bulk, ">= 40,000/s")
            await rate(f"at_many with ids, {messages} messages", messages, runs, calls.with_ids)
            await rate(f"at_many replacing {messages // 10} of them", messages // 10, runs, calls.replaced)
            await rate(f"list {messages} schedules", messages, runs, calls.listed)
            await rate("at with an id, one after the other", SINGLES, runs, calls.singles)
            await rate("cancel, one after the other", SINGLES, runs, calls.cancelled)


if __name__ == "__main__":
    given = bench.options(__doc__ or "", messages=100_000, runs=3)
    asyncio.run(measure(given.messages, given.runs))
