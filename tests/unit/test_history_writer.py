"""History is written behind: after a burst, in batches, again when the store fails, and never without bound."""

import asyncio
from collections.abc import Sequence
from typing import cast

import pytest

from natscron.engine import history
from natscron.engine.history import HistoryWriter
from natscron.errors import StorageUnavailableError
from natscron.model import Run, RunStatus
from natscron.storage.protocol import ExecutionStore, RunQuery
from natscron.testing import virtual


class Store:
    """Keeps what it is given, with the instant; fails as often as it is told."""

    def __init__(self, failures: int = 0) -> None:
        self.saved: list[tuple[float, list[Run]]] = []
        self.failures = failures

    @property
    def runs(self) -> list[Run]:
        return [run for _, batch in self.saved for run in batch]

    async def save_runs(self, runs: Sequence[Run]) -> None:
        if self.failures:
            self.failures -= 1
            raise StorageUnavailableError("away")
        self.saved.append((asyncio.get_running_loop().time(), list(runs)))

    async def list_runs(self, query: RunQuery) -> Sequence[Run]:
        return [run for run in self.runs if run.run_id == query.run_id]


def a_run(number: int) -> Run:
    return Run(job="a", status=RunStatus.SENT, run_id=str(number))


def writer_of(store: Store) -> HistoryWriter:
    return HistoryWriter(cast("ExecutionStore", store))  # the writer asks for no more than the store above has


async def started(store: Store) -> HistoryWriter:
    writer = writer_of(store)
    writer.start()
    return writer


def test_records_are_stored_in_the_order_they_came_made_late_or_not() -> None:
    async def story() -> None:
        store = Store()
        writer = await started(store)
        writer.record(a_run(0))
        writer.record_later(2, lambda: [a_run(1), a_run(2)])
        writer.record_all([a_run(3), a_run(4)])
        assert await writer.flush(5)
        assert [run.run_id for run in store.runs] == ["0", "1", "2", "3", "4"]
        await writer.stop(1)

    virtual.run(story())


def test_a_few_records_are_stored_soon() -> None:
    async def story() -> None:
        store = Store()
        writer = await started(store)
        writer.record(a_run(0))
        assert await writer.flush(5)
        assert store.saved[0][0] < 0.1
        await writer.stop(1)

    virtual.run(story())


def test_a_burst_is_over_before_its_records_are_made() -> None:
    async def story() -> None:
        store = Store()
        writer = await started(store)
        made: list[float] = []

        def make() -> list[Run]:
            made.append(asyncio.get_running_loop().time())
            return [a_run(n) for n in range(256)]

        for _ in range(10):
            writer.record_later(256, make)
            await asyncio.sleep(0.02)
        last = asyncio.get_running_loop().time()
        assert await writer.flush(5)
        assert min(made) >= last
        assert len(store.runs) == 2_560
        await writer.stop(1)

    virtual.run(story())


def test_records_that_never_stop_coming_are_stored_all_the_same() -> None:
    async def story() -> None:
        store = Store()
        writer = await started(store)
        for _ in range(100):
            writer.record_all([a_run(n) for n in range(100)])
            await asyncio.sleep(0.01)
        assert len(store.runs) > 1_000
        await writer.stop(5)
        assert len(store.runs) == 10_000

    virtual.run(story())


def test_a_store_that_fails_is_asked_again() -> None:
    async def story() -> None:
        store = Store(failures=3)
        writer = await started(store)
        writer.record(a_run(0))
        assert await writer.flush(60)
        assert [run.run_id for run in store.runs] == ["0"]
        await writer.stop(1)

    virtual.run(story())


def test_past_the_bound_the_oldest_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "QUEUE_MAX", 100)

    async def story() -> None:
        store = Store()
        writer = writer_of(store)
        writer.record_later(60, lambda: [a_run(n) for n in range(60)])
        writer.record_all([a_run(n) for n in range(60, 150)])
        assert writer.dropped == 60
        writer.start()
        assert await writer.flush(5)
        assert store.runs[0].run_id == "60"
        *kept, said = store.runs
        assert len(kept) == 90
        assert (said.job, said.reason, said.count) == ("_service", "history_dropped", 60)
        await writer.stop(1)

    virtual.run(story())
