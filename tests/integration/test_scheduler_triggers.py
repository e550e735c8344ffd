"""A run that was asked for is known at once and from then on, in every process, whatever the storage."""

import asyncio
import datetime as dt
from collections.abc import Callable
from itertools import count

import pytest

from natscron import JobEvent, NATSStorage, RunNotFoundError, Scheduler, SQLStorage, once
from natscron.ids import ulid
from natscron.storage.nats import LibraryOptions
from natscron.storage.queue import QueueStorage
from natscron.testing.nats import NatsServer

pytestmark = pytest.mark.anyio

NEVER = once(dt.datetime(2090, 1, 1, tzinfo=dt.UTC))
_numbers = count(1)
Another = Callable[[], QueueStorage]


def nothing(_event: JobEvent) -> None:
    pass


async def known_from_the_first_to_the_last(another: Another) -> None:
    """Two processes' storages: one asks and looks, the other plans and works."""
    here, there = another(), another()
    try:
        async with Scheduler(here, plan=False, worker=False) as asking:
            await asking.add_job("a", NEVER, overlap="allow")
            first = await asking.trigger("a")
            run = await asking.get_run(first)
            assert (run.job, run.status, run.reason, run.trigger) == ("a", "pending", None, "manual")
            with pytest.raises(RunNotFoundError):
                await asking.get_run(ulid(1))
            async with Scheduler(there, nothing) as working, asyncio.timeout(20):
                assert (await working.get_run(first)).run_id == first
                seen: list[str] = []
                for run_id in (first, await asking.trigger("a"), await asking.trigger("a")):
                    seen.clear()
                    while not seen or seen[-1] != "completed":
                        seen.append((await asking.get_run(run_id)).status.value)
                    order = list(dict.fromkeys(seen))
                    assert order == [one for one in ("pending", "running", "completed") if one in order]
    finally:
        await here.close()
        await there.close()


async def test_on_sql(sql_url: str) -> None:
    await known_from_the_first_to_the_last(lambda: SQLStorage(sql_url))


async def test_on_nats(shared_nats: NatsServer) -> None:
    options = LibraryOptions(prefix=f"TRIGGERS{next(_numbers)}")
    await known_from_the_first_to_the_last(lambda: NATSStorage(shared_nats.url, options))
