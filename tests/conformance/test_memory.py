"""The memory storage does what every storage has to."""

from collections.abc import AsyncIterator

import pytest

from natscron.clock import SystemClock
from natscron.storage.memory import MemoryCluster, MemoryStorage
from natscron.testing.conformance import (
    CalendarChecks,
    JobStoreChecks,
    LeaseStoreChecks,
    LifecycleChecks,
    RunQueueChecks,
    SortedHistoryChecks,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
async def storage() -> AsyncIterator[MemoryStorage]:
    storage = MemoryStorage(MemoryCluster(SystemClock()))
    await storage.initialize()
    yield storage
    await storage.close()


@pytest.fixture
async def fresh() -> AsyncIterator[MemoryStorage]:
    storage = MemoryStorage(MemoryCluster(SystemClock()))
    yield storage
    await storage.close()


class TestLife(LifecycleChecks):
    needs_initialize = False


class TestJobs(JobStoreChecks):
    pass


class TestCalendars(CalendarChecks):
    pass


class TestLease(LeaseStoreChecks):
    pass


class TestRuns(SortedHistoryChecks):
    pass


class TestQueue(RunQueueChecks):
    pass
