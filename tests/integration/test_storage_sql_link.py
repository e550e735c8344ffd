"""A leader's link: fenced by the lease, in order, in whole transactions; and what follows when one is broken off."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import delete, func, select, update
from tests.support.sql import execute, rows, scalars

from natscron.errors import (
    LeadershipLostError,
    LimitExceededError,
    MalformedInputError,
    StorageUncertainError,
    WrongRevisionError,
)
from natscron.model import Holder, Lease, Mark, Node, NoteRef, OpenRow, OpenState, QueuedRun, Run, RunStatus
from natscron.storage.protocol import LeaderLink, RunQuery
from natscron.storage.sql import SQLStorage
from natscron.storage.sql.schema import executions, lease, notes, open_rows
from natscron.storage.sql.state import SHARD
from natscron.testing.conformance.sinks import State, ignore

pytestmark = pytest.mark.anyio

WAIT_S = 15


def _lease(epoch: int, nonce: str | None = "one") -> Lease:
    holder = None if nonce is None else Holder("host", nonce)
    return Lease(epoch=epoch, mark=Mark(instant_ms=5, jobs_seq=3), holder=holder)


def _row(run_id: str) -> OpenRow:
    return OpenRow(run_id=run_id, job_id="a", generation=1, scheduled_at_ms=5, state=OpenState.RUNNING)


def _run(n: int, job: str = "a") -> QueuedRun:
    return QueuedRun(run_id=f"run-{n}", job=f"{job}-{n}", generation=1, scheduled_at_ms=5, due_ms=5)


@pytest.fixture
async def storage(sql_url: str) -> AsyncIterator[SQLStorage]:
    storage = SQLStorage(sql_url)
    await storage.initialize()
    yield storage
    await storage.close()


@pytest.fixture
async def other(sql_url: str, storage: SQLStorage) -> AsyncIterator[SQLStorage]:
    """Another process's, in effect."""
    del storage
    other = SQLStorage(sql_url)
    await other.initialize()
    yield other
    await other.close()


async def _refused(attempt: Callable[[], Awaitable[object]], error: type[Exception] = LeadershipLostError) -> None:
    with pytest.raises(error):
        async with asyncio.timeout(WAIT_S):
            await attempt()


async def _count(url: str) -> dict[str, int]:
    return {
        table.name: (await scalars(url, select(func.count()).select_from(table)))[0]
        for table in (notes, open_rows, executions)
    }


async def test_after_a_takeover_the_one_before_writes_nothing(
    storage: SQLStorage, other: SQLStorage, sql_url: str
) -> None:
    old = await storage.open_link(ignore)
    first = await old.write_lease(_lease(1), 0)
    await old.commit(NoteRef(1, 1), [old.stage(_run(1))], ["run-1"], [_row("r1")])
    new = await other.open_link(ignore)
    barrier = await new.write_lease(_lease(2, "two"), first)
    future = old.commit(NoteRef(1, 2), [old.stage(_run(2))], ["run-2"], [_row("r2")])
    await _refused(lambda: future)
    assert old.broken.is_set()
    assert await _count(sql_url) == {"scheduler_notes": 1, "scheduler_open": 1, "scheduler_executions": 1}
    snapshot = await new.read_state(NoteRef(), barrier)
    assert [note.run_ids for note in snapshot.notes] == [("run-1",)]
    assert [row.run_id for row in snapshot.rows] == ["r1"]
    await new.commit(NoteRef(2, 1), [new.stage(_run(3))], ["run-3"])
    await old.close()
    await new.close()


@pytest.mark.parametrize("what", ["rows", "delete"])
async def test_after_a_takeover_the_one_before_changes_no_row(
    storage: SQLStorage, other: SQLStorage, sql_url: str, what: str
) -> None:
    old = await storage.open_link(ignore)
    first = await old.write_lease(_lease(1), 0)
    await old.save_rows([_row("r1")])
    new = await other.open_link(ignore)
    await new.write_lease(_lease(2, "two"), first)
    if what == "rows":
        await _refused(lambda: old.save_rows([_row("r2")]))
    else:
        await _refused(lambda: old.delete_rows(["r1"]))
    assert await scalars(sql_url, select(open_rows.c.run_id)) == ["r1"]
    await old.close()
    await new.close()


async def test_the_same_process_under_a_later_epoch_is_another_leader(storage: SQLStorage, sql_url: str) -> None:
    old = await storage.open_link(ignore)
    first = await old.write_lease(_lease(1), 0)
    new = await storage.open_link(ignore)
    await new.write_lease(_lease(2), first)
    future = old.commit(NoteRef(1, 1), [], ["run-1"])
    await _refused(lambda: future)
    await new.commit(NoteRef(2, 1), [], ["run-2"])
    assert await scalars(sql_url, select(notes.c.run_ids)) == ["run-2"]
    await old.close()
    await new.close()


async def test_a_link_that_never_took_the_lease_writes_nothing_where_there_is_one(
    storage: SQLStorage, sql_url: str
) -> None:
    leader = await storage.open_link(ignore)
    await leader.write_lease(_lease(1), 0)
    stray = await storage.open_link(ignore)
    future = stray.commit(NoteRef(1, 1), [stray.stage(_run(1))], ["run-1"])
    await _refused(lambda: future)
    assert (await _count(sql_url))["scheduler_executions"] == 0
    await leader.close()
    await stray.close()


async def test_after_a_release_no_commit_passes_and_what_is_over_may_be_deleted(
    storage: SQLStorage, sql_url: str
) -> None:
    link = await storage.open_link(ignore)
    revision = await link.write_lease(_lease(1), 0)
    await link.save_rows([_row("r1"), _row("r2")])
    await link.write_lease(_lease(1, None), revision)
    assert await rows(sql_url, select(lease.c.epoch, lease.c.nonce)) == [(1, "")]
    await link.delete_rows(["r1"])
    assert await scalars(sql_url, select(open_rows.c.run_id)) == ["r2"]
    future = link.commit(NoteRef(1, 1), [], ["run-1"])
    await _refused(lambda: future)
    assert (await _count(sql_url))["scheduler_notes"] == 0
    await link.close()


async def test_commits_that_wait_are_one_transaction_and_each_is_told(storage: SQLStorage, sql_url: str) -> None:
    link = await storage.open_link(ignore)
    revision = await link.write_lease(_lease(1), 0)
    futures = [link.commit(NoteRef(1, n), [link.stage(_run(n))], [f"run-{n}"], [_row(f"r{n}")]) for n in range(1, 41)]
    renewal = asyncio.create_task(link.write_lease(_lease(1), revision))
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*futures)
    await renewal
    assert await _count(sql_url) == {"scheduler_notes": 40, "scheduler_open": 40, "scheduler_executions": 40}
    # All notes of one transaction have the database's time of it.
    assert len(set(await scalars(sql_url, select(notes.c.stored_ms)))) <= 3
    assert set(await scalars(sql_url, select(notes.c.revision))) == {revision}
    await link.close()


async def test_a_run_that_is_left_out_is_told_here_after_it_is_committed(storage: SQLStorage) -> None:
    told: list[Run] = []
    heard = asyncio.Event()

    class Sink:
        def wake(self) -> None:
            return

        def cancel(self) -> None:
            return

        def left_out(self, run: Run) -> None:
            told.append(run)
            heard.set()

    watch = storage.watch_queue(Sink())
    await watch.ready()
    link = await storage.open_link(ignore)
    await link.write_lease(_lease(1), 0)
    runs = [QueuedRun(run_id=f"run-{n}", job="a", generation=1, scheduled_at_ms=n, due_ms=n) for n in (1, 2)]
    await link.commit(NoteRef(1, 1), [link.stage(run) for run in runs], ["run-1", "run-2"])
    async with asyncio.timeout(WAIT_S):
        await heard.wait()
    assert [(run.run_id, run.status) for run in told] == [("run-2", RunStatus.SKIPPED)]
    assert len(await storage.list_runs(RunQuery(job="a"))) == 2
    await watch.close()
    await link.close()


async def test_the_same_runs_committed_again_change_nothing(storage: SQLStorage, sql_url: str) -> None:
    link = await storage.open_link(ignore)
    revision = await link.write_lease(_lease(1), 0)
    await link.commit(NoteRef(1, 1), [link.stage(_run(1))], ["run-1"])
    await link.write_lease(_lease(2), revision)
    await link.commit(NoteRef(2, 1), [link.stage(_run(1)), link.stage(_run(2))], ["run-1", "run-2"])
    assert sorted(await scalars(sql_url, select(executions.c.execution_id))) == ["run-1", "run-2"]
    await link.close()


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 10, 20, 40, 80])
async def test_what_an_abort_leaves_is_whole(storage: SQLStorage, sql_url: str, turns: int) -> None:
    """The note says what the queue holds, wherever the abort fell."""
    link = await storage.open_link(ignore)
    revision = await link.write_lease(_lease(1), 0)
    futures = [link.commit(NoteRef(1, n), [link.stage(_run(n))], [f"run-{n}"], [_row(f"run-{n}")]) for n in range(1, 6)]
    for _ in range(turns):
        await asyncio.sleep(0)
    link.abort()
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert all(isinstance(one, LeadershipLostError | StorageUncertainError | None) for one in outcomes)
    await link.close()
    successor = await storage.open_link(ignore)
    await successor.write_lease(_lease(2, "two"), revision)
    noted = {run_id for text in await scalars(sql_url, select(notes.c.run_ids)) for run_id in text.split("\n")}
    assert noted == set(await scalars(sql_url, select(executions.c.execution_id)))
    assert noted == set(await scalars(sql_url, select(open_rows.c.run_id)))
    confirmed = {f"run-{n}" for n, outcome in enumerate(outcomes, 1) if outcome is None}
    assert confirmed <= noted, "what was confirmed is there"
    await successor.close()


async def test_after_an_abort_nothing_more_is_written(storage: SQLStorage, other: SQLStorage, sql_url: str) -> None:
    link = await storage.open_link(ignore)
    revision = await link.write_lease(_lease(1), 0)
    for n in range(1, 200):
        link.commit(NoteRef(1, n), [link.stage(_run(n))], [f"run-{n}"])
    await asyncio.sleep(0)
    link.abort()
    assert link.broken.is_set()
    successor = await other.open_link(ignore)
    async with asyncio.timeout(WAIT_S):
        barrier = await successor.write_lease(_lease(2, "two"), revision)
        seen = len((await successor.read_state(NoteRef(), barrier)).notes)
        await link.close()
    assert len(await scalars(sql_url, select(notes.c.n))) == seen
    await successor.close()


async def test_a_write_whose_caller_gave_up_counts_when_it_happens(storage: SQLStorage) -> None:
    """A renewal that timed out may have been written, and the commits after it are under the lease that it wrote."""
    link = await storage.open_link(ignore)
    first = await link.write_lease(_lease(1), 0)
    attempt = asyncio.create_task(link.write_lease(_lease(1), first))
    await asyncio.sleep(0)
    attempt.cancel()
    await asyncio.gather(attempt, return_exceptions=True)
    await link.commit(NoteRef(1, 1), [], ["run-1"])
    record = await link.read_lease()
    assert record is not None
    assert not link.broken.is_set()
    assert await link.write_lease(_lease(1), record.revision) > record.revision
    await link.close()


async def test_what_is_refused_or_unreadable_leaves_the_link_whole(storage: SQLStorage, sql_url: str) -> None:
    link = await storage.open_link(ignore)
    await _refused(lambda: link.write_lease(_lease(1), 5), WrongRevisionError)
    revision = await link.write_lease(_lease(1), 0)
    await execute(sql_url, update(lease).where(lease.c.shard == SHARD).values(data=b"{nonsense"))
    await _refused(link.read_lease, MalformedInputError)
    await execute(
        sql_url, update(lease).where(lease.c.shard == SHARD).values(data=b'{"reader":99,"epoch":1,"whatever":[]}')
    )
    await _refused(link.read_lease, MalformedInputError)
    assert not link.broken.is_set()
    await link.write_lease(_lease(1), revision)
    await link.close()


async def test_a_lease_that_somebody_deleted_is_fenced_too(storage: SQLStorage, sql_url: str) -> None:
    link = await storage.open_link(ignore)
    await link.write_lease(_lease(1), 0)
    await execute(sql_url, delete(lease))
    future = link.commit(NoteRef(1, 1), [], ["run-1"])
    await _refused(lambda: future)
    assert (await _count(sql_url))["scheduler_notes"] == 0
    await link.close()


async def test_a_run_whose_payload_is_too_large_is_refused_while_it_is_staged(storage: SQLStorage) -> None:
    link = await storage.open_link(ignore)
    size = link.stage(QueuedRun(**{**_fields(_run(1)), "payload": "x" * 1000})).size
    assert 1_000 < size < 1_500
    with pytest.raises(LimitExceededError):
        link.stage(QueuedRun(**{**_fields(_run(1)), "payload": "x" * (link.max_payload + 1)}))
    await link.close()


def _fields(run: QueuedRun) -> dict[str, Any]:
    return {name: getattr(run, name) for name in run.__struct_fields__}


async def test_a_row_of_a_later_version_is_told_and_told_again_when_it_is_gone(
    storage: SQLStorage, sql_url: str
) -> None:
    class Newer(State):
        def __init__(self) -> None:
            super().__init__()
            self.told: list[tuple[str, bool]] = []

        def newer(self, record: str, why: str | None) -> None:
            self.told.append((record, why is not None))
            self._changed.set()

    link = await storage.open_link(ignore)
    await link.write_lease(_lease(1), 0)
    await link.save_rows([_row("r1"), _row("r2")])
    await execute(
        sql_url, update(open_rows).where(open_rows.c.run_id == "r1").values(data=b'{"reader":99,"run_id":"r1"}')
    )
    await execute(sql_url, update(open_rows).where(open_rows.c.run_id == "r2").values(data=b"nonsense"))
    sink = Newer()
    watch = storage.watch_state(sink)
    await watch.ready()
    assert sink.told == [("r1", True)]
    assert sink.rows == {}, "what nobody can read stops no other"
    await link.delete_rows(["r1"])
    await sink.until(lambda: sink.told == [("r1", True), ("r1", False)])
    await watch.close()
    await link.close()


async def test_a_run_id_that_no_column_holds_is_refused_before_it_is_laid_down(storage: SQLStorage) -> None:
    with pytest.raises(LimitExceededError):
        await storage.submit_row(_row("x" * 241))
    assert await storage.submit_row(_row("x" * 240))


async def test_instances_that_died_are_forgotten(storage: SQLStorage, sql_url: str) -> None:
    from natscron.storage.sql.schema import nodes  # noqa: PLC0415 - of this test alone

    for nonce in ("old", "new"):
        await storage.announce(Node(instance="host", nonce=nonce, version="1", started_at_ms=5))
    await execute(sql_url, update(nodes).where(nodes.c.nonce == "old").values(stored_ms=5))
    sink = State()
    watch = storage.watch_state(sink)
    await watch.ready()
    assert set(sink.nodes) == {("host", "new")}, "who died long ago is not shown"
    await storage.sweep()
    assert await scalars(sql_url, select(nodes.c.nonce)) == ["new"]
    await watch.close()


async def test_links_have_their_own_connections(server_url: str) -> None:
    """A pool that the API has used up keeps no leader from renewing."""
    storage = SQLStorage(server_url)
    await storage.initialize()
    parts = storage._parts
    assert parts is not None
    link: LeaderLink = await storage.open_link(ignore)
    revision = await link.write_lease(_lease(1), 0)
    hogs = [await parts._engine.connect() for _ in range(storage.options.pool_size)]
    async with asyncio.timeout(WAIT_S):
        await link.write_lease(_lease(1), revision)
        await link.commit(NoteRef(1, 1), [link.stage(_run(1))], ["run-1"])
    for hog in hogs:
        await hog.close()
    await link.close()
    await storage.close()
