"""The SQL storage does what every storage has to, on SQLite, PostgreSQL and MariaDB."""

from collections.abc import AsyncIterator

import pytest

from natscron.storage.sql import SQLStorage
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
async def fresh(sql_url: str) -> AsyncIterator[SQLStorage]:
    """Not initialized, on a database of its own."""
    storage = SQLStorage(sql_url)
    yield storage
    await storage.close()


@pytest.fixture
async def storage(fresh: SQLStorage) -> SQLStorage:
    await fresh.initialize()
    return fresh


class TestLife(LifecycleChecks):
    pass


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
