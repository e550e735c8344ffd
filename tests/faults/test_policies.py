"""Policies while leaders are killed: real processes, real NATS."""

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from natscron.codec import ms_to_text
from natscron.testing.fleet import Fleet
from natscron.wire.failures import Message

pytestmark = pytest.mark.anyio

MINUTE = 60_000


async def history(fleet: Fleet, job: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = (await fleet.api("runs.list", {"job": job, "limit": 10_000, "ascending": True}))[
        "runs"
    ]
    return found


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it holds; at most a minute."""
    async with asyncio.timeout(60):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.05)


async def no_backfills(fleet: Fleet) -> bool:
    return not (await fleet.api("backfills.list"))["backfills"]


async def worked(spans: list[tuple[float, float, str]], count: int) -> bool:
    return len(spans) >= count


async def all_over(fleet: Fleet, working: set[asyncio.Task[None]]) -> bool:
    before = len(await last_of_each(fleet))
    await asyncio.sleep(1.5)
    runs = await last_of_each(fleet)
    return not working and len(runs) == before and all(run["status"] not in {"running", "pending"} for run in runs)


async def test_a_backfill_runs_each_slot_once_although_its_leader_is_killed_twice(fleet: Fleet) -> None:
    for name in ("a", "b"):
        fleet.start(name, HISTORY__PER_JOB="2000")
    await fleet.leader()
    now = fleet.clock.now_ms()
    last = now - now % MINUTE - MINUTE
    first = last - 299 * MINUTE
    await fleet.api("jobs.put", {"subject": "core.past", "schedule": {"cron": "* * * * *"}, "delivery": "core"})
    await fleet.api(
        "jobs.backfill", {"subject": "core.past", "from": ms_to_text(first), "to": ms_to_text(last), "rate": "50/s"}
    )
    for heard in (60, 120):
        async with asyncio.timeout(20):
            while len(fleet.heard) < heard:
                await fleet.next_arrival()
        leader = await fleet.leader()
        leader.kill()
        leader.start()
    await until(lambda: no_backfills(fleet))
    slots: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for arrival in fleet.heard:
        if arrival.slot_ms <= last:
            slots[arrival.slot_ms][arrival.run_id] += 1
    assert sorted(slots) == list(range(first, last + 1, MINUTE))
    assert all(len(ids) == 1 for ids in slots.values()), "a slot under two ids"
    copies = sum(ids.total() - 1 for ids in slots.values())
    assert copies <= 2 * 64, "more copies than two writes hold"
    [end] = [run for run in await history(fleet, "core.past") if run.get("reason") == "backfill_done"]
    assert end["count"] == 300


async def test_runs_that_must_not_overlap_do_not_although_leaders_are_killed(fleet: Fleet) -> None:
    spans: list[tuple[float, float, str]] = []
    working: set[asyncio.Task[None]] = set()

    async def work(message: Message) -> None:
        headers = message.headers or {}
        run = headers["Nats-Cron-Run"]
        begun = fleet.clock.now_s()
        await asyncio.sleep(0.35)
        spans.append((begun, fleet.clock.now_s(), run))
        report = {"run_id": run, "job": message.subject, "attempt": int(headers["Nats-Cron-Attempt"])}
        await fleet.api("runs.report", {**report, "status": "completed"})

    def take(message: Message) -> None:
        task = asyncio.create_task(work(message))
        working.add(task)
        task.add_done_callback(working.discard)

    await fleet.connection.subscribe("core.one", take)
    for name in ("a", "b"):
        fleet.start(name)
    await fleet.leader()
    await fleet.api(
        "jobs.put",
        {
            "subject": "core.one",
            "schedule": {"every": "250ms"},
            "delivery": "core",
            "reports": True,
            "overlap": "buffer_all",
            "timeout": "60s",
        },
    )
    for _ in range(3):
        await until(partial(worked, spans, len(spans) + 5))
        leader = await fleet.leader()
        leader.kill()
        leader.start()
    await fleet.leader()
    await fleet.api("jobs.pause", {"subject": "core.one"})
    # What waits goes one after another; it is over when nothing is going and nothing is left to go.
    await until(lambda: all_over(fleet, working))
    ordered = sorted(spans)
    for (_, ended, one), (begun, _, other) in itertools.pairwise(ordered):
        # A copy under the same id, where a kill cut a write in two, is the same run.
        assert begun >= ended - 0.01 or one == other, f"{one} and {other} at once"
    ends = {str(run["run_id"]): run["status"] for run in await last_of_each(fleet)}
    assert {ends[run] for _, _, run in spans} == {"completed"}


async def last_of_each(fleet: Fleet) -> list[dict[str, object]]:
    last = {str(run["run_id"]): run for run in await history(fleet, "core.one") if "run_id" in run}
    return list(last.values())
