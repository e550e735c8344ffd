"""Copying one storage into another: what arrives, what is left alone, and what becomes of an abort at any point."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from tests.unit.migrating import HOUR, NOW, RICH, everything, held, lead, records, run, seed, store

from natscron.clock import SystemClock
from natscron.errors import (
    ConfigError,
    LimitExceededError,
    SchemaTooNewError,
    StorageUnavailableError,
    StorageUncertainError,
)
from natscron.model import (
    SERVICE_JOB,
    Calendar,
    CalendarSpec,
    Holder,
    Job,
    Mark,
    Node,
    OpenRow,
    OpenState,
    Overlap,
    QueuedRun,
    Run,
    RunStatus,
    ScheduleSpec,
)
from natscron.storage.listing import PAGE
from natscron.storage.memory import MemoryCluster, MemoryStorage
from natscron.storage.migrate import (
    WARNINGS_MAX,
    MigrateProgress,
    MigrateResult,
    MigrateStage,
    MigrationError,
    migrate_storage,
)
from natscron.storage.protocol import RunQuery
from natscron.storage.queue import record_id

pytestmark = pytest.mark.anyio

# What arrives.


async def test_jobs_calendars_and_their_history_arrive_whole() -> None:
    src, dst = store(), store()
    await seed(src)
    found = await migrate_storage(src, dst)
    assert found == MigrateResult(3, 0, 6, 0, calendars_migrated=1)
    jobs, calendars, history = await held(src)
    gone = {record_id(one) for one in history.values() if one.job in {"removed", SERVICE_JOB}}
    assert len(gone) == 2
    assert await held(dst) == (jobs, calendars, {key: one for key, one in history.items() if key not in gone})
    new = await dst.fetch_job(RICH.id)
    old = await src.fetch_job(RICH.id)
    assert new is not None
    assert old is not None
    assert (new.created_at_ms, new.anchor_ms, new.generation) == (old.created_at_ms, old.anchor_ms, old.generation)


async def test_a_second_run_changes_nothing() -> None:
    src, dst = store(), store()
    await seed(src)
    await migrate_storage(src, dst)
    before = everything(dst.cluster)
    assert await migrate_storage(src, dst) == MigrateResult(0, 3, 0, 6, calendars_skipped=1)
    assert everything(dst.cluster) == before


async def test_an_empty_source_gives_nothing() -> None:
    src, dst = store(), store()
    before = everything(dst.cluster)
    assert await migrate_storage(src, dst, removed_jobs=True) == MigrateResult(0, 0, 0, 0)
    assert everything(dst.cluster) == before


@pytest.mark.parametrize("dry_run", [True, False])
async def test_the_source_is_only_read(dry_run: bool) -> None:  # noqa: FBT001 - a parameter of the test
    src = store()
    await seed(src)
    await src.announce(Node(instance="i", nonce="n", version="1", started_at_ms=NOW))
    before = everything(src.cluster)
    reader = MemoryStorage(src.cluster)
    for removed_jobs in (False, True):
        await migrate_storage(reader, store(), dry_run=dry_run, removed_jobs=removed_jobs)
    assert everything(src.cluster) == before
    assert reader.links == []
    assert not src.cluster.job_watches
    assert not src.cluster.state_watches


async def test_a_dry_run_says_what_would_be_done_and_writes_nothing() -> None:
    src, dst = store(), store()
    await seed(src)
    await dst.create_job(Job(id="hourly", schedule=ScheduleSpec(every="1h")))
    await dst.save_runs([run("hourly", 1, RunStatus.FAILED)])
    before = everything(dst.cluster)
    told = await migrate_storage(src, dst, dry_run=True)
    assert told == MigrateResult(2, 1, 5, 1, calendars_migrated=1)
    assert everything(dst.cluster) == before
    assert await migrate_storage(src, dst) == told


async def test_a_job_that_is_there_is_not_changed_and_its_history_comes_all_the_same() -> None:
    src, dst = store(), store()
    await seed(src)
    await dst.create_job(Job(id="hourly", schedule=ScheduleSpec(every="7m"), note="mine"))
    mine = await dst.fetch_job("hourly")
    found = await migrate_storage(src, dst)
    assert (found.jobs_migrated, found.jobs_skipped, found.executions_migrated) == (2, 1, 6)
    assert await dst.fetch_job("hourly") == mine
    assert len(await dst.list_runs(RunQuery(job="hourly"))) == 3


async def test_without_executions_only_jobs_and_calendars_come() -> None:
    src, dst = store(), store()
    await seed(src)
    assert await migrate_storage(src, dst, executions=False) == MigrateResult(3, 0, 0, 0, calendars_migrated=1)
    assert await records(dst) == {}


async def test_the_history_of_removed_jobs_comes_on_request_but_not_that_of_the_source_itself() -> None:
    src, dst = store(), store()
    await seed(src)
    found = await migrate_storage(src, dst, removed_jobs=True)
    assert found.executions_migrated == 7
    assert {one.job for one in (await records(dst)).values()} == {RICH.id, "hourly", "removed"}
    assert await migrate_storage(src, dst) == MigrateResult(0, 3, 0, 6, calendars_skipped=1)


async def test_more_records_of_one_job_than_fit_in_a_page_arrive_each_once() -> None:
    src, dst = store(runs_per_job=10_000), store(runs_per_job=10_000)
    await src.create_job(Job(id="a", schedule=ScheduleSpec(every="1s")))
    many = [run("a", n, at_ms=NOW - HOUR + n // 40) for n in range(2_000)]
    same = [run("a", n, at_ms=NOW - HOUR + 50) for n in range(2_000, 5_500)]
    await src.save_runs([*many, *same])
    asked: list[RunQuery] = []
    listed = src.list_runs

    async def list_runs(query: RunQuery) -> Sequence[Run]:
        asked.append(query)
        return await listed(query)

    src.list_runs = list_runs  # type: ignore[method-assign]
    assert await migrate_storage(src, dst) == MigrateResult(1, 0, 5_500, 0)
    assert await records(dst) == {record_id(one): one for one in (*many, *same)}
    pages = [query for query in asked if query.status is None]
    assert {query.limit for query in pages} == {PAGE}
    # By time, not by counting from the first: only within one instant is counted.
    assert max(query.offset for query in pages) <= 4_000
    assert len(pages) < 15


async def test_what_the_destination_does_not_keep_is_skipped_once_and_for_all() -> None:
    src, dst = store(), store(runs_per_job=4)
    await src.create_job(Job(id="a", schedule=ScheduleSpec(every="1s")))
    await src.save_runs([run("a", n) for n in range(10)])
    assert await migrate_storage(src, dst) == MigrateResult(1, 0, 4, 6)
    assert set(await records(dst)) == {f"a-{n}" for n in range(6, 10)}
    assert await migrate_storage(src, dst) == MigrateResult(0, 1, 0, 10)


# What is left behind, and told.


async def test_runs_that_are_not_over_stay_and_are_told_of() -> None:
    src, dst = store(), store()
    await seed(src)
    for n in (1, 2):
        queued = QueuedRun(run_id=f"open-{n}", job="hourly", generation=3, scheduled_at_ms=NOW - 5, due_ms=NOW - 5)
        src.cluster.queue.enter(msgspec.structs.replace(queued, overlap=Overlap.ALLOW))
    src.cluster.queue.claim("w", [""], 1)
    row = OpenRow(run_id="t", job_id="hourly", generation=3, scheduled_at_ms=NOW, state=OpenState.PENDING)
    await src.submit_row(row)
    await src.submit_row(msgspec.structs.replace(row, run_id="b", state=OpenState.BACKFILL))
    await src.submit_row(msgspec.structs.replace(row, run_id="f", state=OpenState.FAILURES))
    found = await migrate_storage(src, dst)
    assert found.runs_open == 3
    assert found.executions_migrated == 6
    assert [text.partition(" and stay")[0] for text in found.warnings] == [
        "3 runs are not over",
        "1 backfills are going on",
    ]
    assert (await records(dst)).keys().isdisjoint({"open-1", "open-2"})
    assert not dst.cluster.rows
    assert dst.cluster.queue.activity(["hourly"])["hourly"].waiting == 0


async def test_a_source_in_use_is_told_of() -> None:
    src = store()
    await src.announce(Node(instance="worker-7", nonce="n", version="1", started_at_ms=NOW))
    await lead(src, Mark(instant_ms=NOW), Holder("leader-1", "n"))
    [warning] = (await migrate_storage(src, store())).warnings
    assert "in use by leader-1, worker-7" in warning


async def test_a_job_that_cannot_be_read_stops_no_other() -> None:
    src, dst = store(), store()
    await seed(src)
    src.cluster.put_row("broken", b'{"subject":"broken"')
    src.cluster.put_row("newer", b'{"subject":"newer","natscron":{"reader":99}}')
    src.cluster.put_row("_cal.broken", b"{}")
    await src.save_runs([run("broken", 1)])
    found = await migrate_storage(src, dst)
    assert (found.jobs_migrated, found.jobs_refused, found.calendars_refused, found.executions_migrated) == (3, 2, 1, 7)
    assert [text.split(" ")[1] for text in found.warnings] == ["'broken'", "'broken'", "'newer'"]
    assert "reader version 99" in found.warnings[2]


async def test_many_warnings_are_counted() -> None:
    src = store()
    for n in range(WARNINGS_MAX + 5):
        src.cluster.put_row(f"broken{n}", b"{}")
    found = await migrate_storage(src, store())
    assert found.jobs_refused == WARNINGS_MAX + 5
    assert len(found.warnings) == WARNINGS_MAX + 1
    assert found.warnings[-1] == "and 5 more of this kind"


async def test_a_calendar_that_is_another_one_there_is_left_and_told_of() -> None:
    src, dst = store(), store()
    await seed(src)
    other = CalendarSpec(dates=("01-01",))
    await dst.put_calendar(Calendar(name="holidays", spec=other))
    found = await migrate_storage(src, dst)
    assert (found.calendars_migrated, found.calendars_skipped) == (0, 1)
    assert "'holidays' is another one" in found.warnings[0]
    stored = await dst.fetch_calendar("holidays")
    assert stored is not None
    assert stored.spec == other


async def test_what_the_destination_refuses_stops_nothing_else() -> None:
    class Strict(MemoryStorage):
        async def create_job(self, job: Job) -> int:
            if job.id == "hourly":
                raise LimitExceededError("too long")
            return await super().create_job(job)

        async def import_runs(self, runs: Sequence[Run], *, dry_run: bool = False) -> Sequence[bool]:
            if any(one.run_id == f"{RICH.id}-1" for one in runs):
                raise LimitExceededError("too long")
            return await super().import_runs(runs, dry_run=dry_run)

    src, dst = store(), Strict(MemoryCluster(SystemClock()))
    await seed(src)
    found = await migrate_storage(src, dst)
    assert (found.jobs_migrated, found.jobs_refused) == (2, 1)
    assert (found.executions_migrated, found.executions_refused) == (5, 1)
    assert sorted(text.split(" ")[0] for text in found.warnings) == ["an", "job"]


async def test_a_job_created_by_another_meanwhile_is_skipped() -> None:
    class Racing(MemoryStorage):
        async def create_job(self, job: Job) -> int:
            await super().create_job(msgspec.structs.replace(job, note="theirs"))
            return await super().create_job(job)

        async def put_calendar(self, calendar: Calendar, expected_revision: int | None = None) -> int:
            await super().put_calendar(calendar)
            return await super().put_calendar(calendar, expected_revision)

    src, dst = store(), Racing(MemoryCluster(SystemClock()))
    await seed(src)
    assert await migrate_storage(src, dst) == MigrateResult(0, 3, 6, 0, calendars_skipped=1)


# Errors.


async def test_a_storage_is_not_copied_into_itself() -> None:
    src = store()
    with pytest.raises(ConfigError, match="into itself"):
        await migrate_storage(src, src)


@pytest.mark.parametrize("which", [0, 1])
async def test_a_storage_that_is_away_is_said_at_once(which: int) -> None:
    both = (store(), store())
    await seed(both[0])
    both[which].cluster.up = False
    with pytest.raises(MigrationError, match="not reachable") as caught:
        await migrate_storage(*both)
    assert caught.value.result == MigrateResult()
    assert isinstance(caught.value.__cause__, StorageUnavailableError)


async def test_a_watch_that_stays_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(MemoryStorage):
        def watch_jobs(self, sink: Any) -> Any:  # noqa: ANN401 - as the base class
            watch = super().watch_jobs(sink)
            watch._turn += 1  # type: ignore[attr-defined] # so that it never begins
            return watch

    monkeypatch.setattr("natscron.storage.listing.SILENCE_S", 0.01)
    with pytest.raises(MigrationError, match="did not hand over its jobs"):
        await migrate_storage(Silent(MemoryCluster(SystemClock())), store())


async def test_a_lease_of_a_later_version_is_not_guessed_at() -> None:
    class Newer(MemoryStorage):
        def watch_state(self, sink: Any) -> Any:  # noqa: ANN401 - as the base class
            sink.newer("lease.0", "it needs reader version 9")
            return super().watch_state(sink)

    dst = store()
    with pytest.raises(MigrationError, match="reader version 9") as caught:
        await migrate_storage(Newer(MemoryCluster(SystemClock())), dst)
    assert isinstance(caught.value.__cause__, SchemaTooNewError)


async def test_what_was_done_stands_in_the_error() -> None:
    class Ends(MemoryStorage):
        created = 0

        async def create_job(self, job: Job) -> int:
            self.created += 1
            if self.created == 3:
                raise StorageUncertainError("the answer is missing")
            return await super().create_job(job)

    src, dst = store(), Ends(MemoryCluster(SystemClock()))
    await seed(src)
    with pytest.raises(MigrationError) as caught:
        await migrate_storage(src, dst)
    assert caught.value.result == MigrateResult(2, 0, 6, 0, calendars_migrated=1)
    assert str(caught.value) == (
        "migration stopped: the answer is missing (2 jobs and 6 executions were migrated; run it again to go on)"
    )
    assert caught.value.may_have_happened
    assert caught.value.retry_helps


async def test_progress_goes_through_the_stages_and_ends_with_the_result() -> None:
    src, dst = store(), store()
    await seed(src)
    told: list[MigrateProgress] = []
    result = await migrate_storage(src, dst, progress=told.append)
    assert list(dict.fromkeys(one.stage for one in told)) == list(MigrateStage)
    for stage in MigrateStage:
        steps = [one for one in told if one.stage is stage]
        assert [one.done for one in steps] == sorted(one.done for one in steps)
        assert (steps[0].done, steps[-1].done) == (0, steps[-1].total)
    assert told[-1].result == result
    removed: list[MigrateProgress] = []
    await migrate_storage(src, store(), removed_jobs=True, progress=removed.append)
    assert {one.total for one in removed if one.stage is MigrateStage.HISTORY} == {None}


async def test_an_error_of_the_callers_function_is_the_callers() -> None:
    def fail(progress: MigrateProgress) -> None:
        if progress.stage is MigrateStage.JOBS:
            raise ZeroDivisionError

    src, dst = store(), store()
    await seed(src)
    with pytest.raises(ZeroDivisionError):
        await migrate_storage(src, dst, progress=fail)
    await migrate_storage(src, dst)
    assert (await held(dst))[0] == (await held(src))[0]
