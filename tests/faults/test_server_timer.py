"""Jobs that nats-server times, through its crashes and ours: no slot lost, none run twice, none unsaid."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from natscron.clock import SystemClock
from natscron.model import Reason, RunStatus
from natscron.schedule import cron, every
from natscron.scheduler import Scheduler
from natscron.storage.nats import NATSStorage
from natscron.testing.nats import NatsServer
from natscron.worker.event import JobEvent

pytestmark = [pytest.mark.anyio, pytest.mark.soak, pytest.mark.timeout(400)]

CLOCK = SystemClock()
STEPS = {"second": 1, "five": 5, "minute": 60}


class Slots:
    """A handler that counts the runs of each slot, in seconds."""

    def __init__(self) -> None:
        self.of: dict[str, Counter[int]] = {}

    async def __call__(self, event: JobEvent) -> None:
        self.of.setdefault(event.id, Counter())[int(event.scheduled_at.timestamp())] += 1


async def begun(url: str, slots: Slots) -> tuple[Scheduler, int]:
    """A scheduler with some jobs of each kind, and a second after which each has its slots."""
    scheduler = Scheduler(url, slots, timer="server")
    await scheduler.start()
    for n in range(20):
        await scheduler.add_job(f"second.{n}", cron("* * * * * *"), overlap="allow", catchup="all")
        await scheduler.add_job(f"five.{n}", every("5s"), overlap="allow", catchup="all")
        await scheduler.add_job(f"minute.{n}", cron("0 * * * * *"), overlap="allow", catchup="all")
    return scheduler, CLOCK.now_ms() // 1_000 + 6


def check(slots: Slots, first: int, last: int) -> None:
    for job, counted in slots.of.items():
        step = STEPS[job.partition(".")[0]]
        phase = min(counted) % step
        expected = [second for second in range(first, last) if second % step == phase]
        assert [second for second in sorted(counted) if first <= second < last] == expected, job
        assert set(counted.values()) == {1}, job


async def test_a_server_that_is_killed_loses_and_doubles_nothing(tmp_path: Path) -> None:
    slots = Slots()
    with NatsServer(tmp_path / "nats") as server:
        scheduler, first = await begun(server.url, slots)
        # By the last it has written its timers down, and fires anew all that it fired since.
        for lasts_s in (8, 20, 140):
            await asyncio.sleep(lasts_s)
            server.kill()
            server.start()
        await asyncio.sleep(10)
        last = CLOCK.now_ms() // 1_000
        await asyncio.sleep(5)
        await scheduler.stop()
    assert len(slots.of) == 60
    check(slots, first, last)


async def test_after_a_long_time_without_any_process_each_slot_ran_or_is_told_of_and_none_is_both(
    tmp_path: Path,
) -> None:
    slots = Slots()
    with NatsServer(tmp_path / "nats") as server:
        storage = NATSStorage(server.url)
        scheduler = Scheduler(storage, slots, timer="server", lease="1s")
        await scheduler.start()
        await scheduler.add_job("second", cron("* * * * * *"), overlap="allow", catchup="none")
        await asyncio.sleep(6.5)
        # As when the process is killed: the mark stays where the last renewal put it, behind what ran.
        await storage.close()
        await scheduler.stop()
        await asyncio.sleep(25)
        async with Scheduler(server.url, slots, lease="1s") as again:
            await asyncio.sleep(6)
            runs = await again.list_runs("second", limit=1_000)
    ran = slots.of["second"]
    assert set(ran.values()) == {1}
    told: Counter[int] = Counter()
    for run in runs:
        if run.status is RunStatus.SKIPPED:
            assert run.reason == Reason.CATCHUP_NONE
            assert run.from_ms is not None
            assert run.to_ms is not None
            inside = range(run.from_ms // 1_000, run.to_ms // 1_000 + 1)
            assert run.count == len(inside)
            told.update(inside)
    assert sum(told.values()) >= 10
    assert set(told.values()) == {1}
    assert not set(told) & set(ran)
    assert sorted(set(told) | set(ran)) == [*range(min(ran), max(ran) + 1)]
