"""The run queue on NATS, as several processes see it: two storages on one server stand for them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count

import msgspec
import pytest

from natscron.clock import SystemClock
from natscron.errors import ConfigError, ServerTooOldError, StorageUnavailableError, StorageUncertainError
from natscron.model import Activity, Claim, Overlap, Reason, Run, RunStatus
from natscron.storage.nats import LibraryOptions, NATSStorage
from natscron.storage.nats.library_provision import check_version
from natscron.storage.nats.lines import Open as Version
from natscron.storage.nats.runrow import RowState, RunRow, encode_run_row, row_key
from natscron.storage.protocol import RunQuery
from natscron.testing.conformance.driving import JOB, Driver, Sink, ending_of, later, worker_info
from natscron.testing.conformance.sinks import a_job
from natscron.testing.nats import NatsCluster, NatsServer
from natscron.wire.connection import Connection
from natscron.wire.kv import get_last
from natscron.wire.replies import PubAck

pytestmark = pytest.mark.anyio

_numbers = count(1)
Open = Callable[..., Awaitable[NATSStorage]]


@pytest.fixture
async def more(shared_nats: NatsServer) -> AsyncIterator[Open]:
    """Opens storages of one queue, one for each process."""
    prefix = f"QUEUE{next(_numbers)}"
    opened: list[NATSStorage] = []

    async def open_one(**options: object) -> NATSStorage:
        given = LibraryOptions(prefix=prefix, **options)  # type: ignore[arg-type]  # any of its fields
        storage = NATSStorage(shared_nats.url, given)
        opened.append(storage)
        await storage.initialize()
        return storage

    yield open_one
    for storage in opened:
        await storage.close()


async def seen(storage: NATSStorage, **expected: object) -> None:
    """Wait until this process knows of the job's runs what is expected."""

    async def so() -> bool:
        found = (await storage.activity([JOB])).get(JOB, Activity())
        return all(getattr(found, name) == value for name, value in expected.items())

    await later(so)


async def test_a_run_that_one_process_queues_is_claimed_and_ended_in_another(more: Open) -> None:
    one, two = await more(), await more()
    driver = await Driver.begin(one)
    await driver.queue(driver.run("r1"))
    await seen(two, waiting=1)
    [claim] = (await two.claim("w", ("",), 1)).runs
    await seen(one, running=1)
    assert (await one.claim("other", ("",), 1)).runs == ()
    assert list(await two.finish("w", [ending_of(claim)])) == [True]
    await seen(one, running=0, waiting=0, status=RunStatus.COMPLETED)
    assert [run.status for run in await one.list_runs(RunQuery(job=JOB))] == [RunStatus.COMPLETED]


async def test_overlap_is_decided_by_what_goes_on_in_other_processes(more: Open) -> None:
    one, two = await more(), await more()
    driver = await Driver.begin(one)
    await driver.queue(driver.run("r1", overlap=Overlap.SKIP))
    await seen(two, waiting=1)
    [claim] = (await two.claim("w", ("",), 1)).runs
    await driver.queue(driver.run("r2", overlap=Overlap.SKIP))
    assert await driver.reason("r2") == (RunStatus.SKIPPED, Reason.OVERLAP_SKIP)
    await two.finish("w", [ending_of(claim)])
    await seen(one, running=0)
    await driver.queue(driver.run("r3", overlap=Overlap.SKIP))
    await driver.take("r3")


async def test_what_is_held_is_let_go_by_whoever_ended_the_run_before_it_while_nobody_leads(more: Open) -> None:
    one, two = await more(), await more()
    driver = await Driver.begin(one)
    await driver.queue(driver.run("r1", overlap=Overlap.BUFFER_ONE), driver.run("r2", overlap=Overlap.BUFFER_ONE))
    await seen(two, waiting=2)
    driver.link.abort()
    [claim] = (await two.claim("w", ("",), 2)).runs
    await two.finish("w", [ending_of(claim)])
    [claim] = (await two.claim("w", ("",), 2)).runs
    assert claim.run_id == "r2"


async def test_what_was_held_for_nothing_is_let_go_by_the_next_leader(more: Open) -> None:
    one = await more()
    held = RunRow(run_id="r1", job=JOB, state=RowState.HELD, overlap=Overlap.SKIP, by_leader=True)
    subject = one.library.runs_prefix + row_key(held)
    await one.connection.publish(subject, encode_run_row(held))
    await seen(one, waiting=1)
    assert (await one.claim("w", ("",), 1)).runs == ()
    await Driver.begin(one)

    async def claimed() -> bool:
        return bool((await one.claim("w", ("",), 1)).runs)

    await later(claimed)


async def test_a_worker_elsewhere_is_told_that_its_run_is_to_end(more: Open) -> None:
    one, two, sink = await more(), await more(), Sink()
    await two.beat(worker_info())
    watch = two.watch_queue(sink)
    driver = await Driver.begin(one)
    await driver.queue(driver.run("r1", overlap=Overlap.CANCEL_OTHER))
    await seen(two, waiting=1)
    [claim] = (await two.claim("w", ("",), 1)).runs
    await seen(one, running=1)
    await driver.queue(driver.run("r2", overlap=Overlap.CANCEL_OTHER))
    await sink.until(lambda: sink.cancels > 0)
    assert dict(await two.beat(worker_info())) == {("r1", 1): Reason.REPLACED}
    # It failed by itself at the same time, and the row it knew is another by now.
    assert list(await two.finish("w", [ending_of(claim, RunStatus.FAILED, retry_in_ms=0)])) == [True]
    claims: list[Claim] = []

    async def let_go() -> bool:
        claims.extend((await one.claim("w", ("",), 2)).runs)
        return bool(claims)

    await later(let_go)  # this process hears of the end before it hears that what waited for it may go
    assert [claim.run_id for claim in claims] == ["r2"]
    await watch.close()


async def test_no_run_is_claimed_twice_and_none_left_by_many_processes(more: Open) -> None:
    storages = [await more() for _ in range(4)]
    for n, storage in enumerate(storages):
        await storage.beat(worker_info(f"w{n}"))
    driver = await Driver.begin(storages[0])
    ids = {f"r{n:03}" for n in range(400)}
    await driver.queue(*(driver.run(one, job=f"jobs.{one}") for one in sorted(ids)))
    found: list[str] = []

    async def work(storage: NATSStorage, worker: str) -> None:
        while len(found) < len(ids):
            claims = (await storage.claim(worker, ("",), 7)).runs
            found.extend(claim.run_id for claim in claims)
            await asyncio.sleep(0)

    async with asyncio.timeout(20):
        await asyncio.gather(*(work(storage, f"w{n}") for n, storage in enumerate(storages)))
    assert sorted(found) == sorted(ids)


async def test_a_successor_that_queues_the_same_runs_once_more_changes_nothing(more: Open) -> None:
    one, two = await more(), await more()
    driver = await Driver.begin(one)
    runs = [driver.run(f"r{n}", job=f"jobs.{n}", overlap=Overlap.SKIP) for n in range(20)]
    await driver.queue(*runs)
    claims = (await one.claim("w", ("",), 10)).runs
    await one.finish("w", [ending_of(claim) for claim in claims])
    successor = await Driver.begin(two)
    await successor.queue(*runs)
    rest = (await two.claim("w", ("",), 100)).runs
    assert sorted(claim.run_id for claim in (*claims, *rest)) == sorted(run.run_id for run in runs)
    assert len(await two.list_runs(RunQuery(limit=100))) == 20


async def test_a_run_that_ended_long_ago_is_known_to_a_leader_that_begins_before_it(more: Open) -> None:
    one = await more(over_ttl_ms=1_000)
    driver = await Driver.begin(one)
    await driver.queue(driver.run("r1"))
    [claim] = await driver.take("r1")
    await driver.end(claim)
    subject = one.library.runs_prefix + row_key(driver.run("r1"))

    async def gone() -> bool:
        return await get_last(one.connection, one.library.runs_stream, subject) is None

    await later(gone)
    two = await more(over_ttl_ms=1_000)
    successor = await Driver.begin(two)
    lease = await successor.link.read_lease()
    assert lease is not None
    mark = msgspec.structs.replace(lease.lease.mark, instant_ms=driver.now_ms - 5_000)
    revision = await successor.link.write_lease(msgspec.structs.replace(lease.lease, mark=mark), lease.revision)
    await successor.link.read_state(mark.note, revision)
    await successor.queue(driver.run("r1"), driver.run("r2"))
    assert [claim.run_id for claim in (await two.claim("w", ("",), 5)).runs] == ["r2"]


async def test_rows_that_an_operator_purges_are_forgotten_by_everybody(more: Open) -> None:
    one, two = await more(), await more()
    driver = await Driver.begin(one)
    await driver.queue(driver.run("r1"), driver.run("r2", job="jobs.b"))
    await seen(two, waiting=1)
    stream = one.library.runs_stream
    await one.connection.js_request(f"STREAM.PURGE.{stream}", {"filter": f"{one.library.runs_prefix}{JOB}.>"})
    for storage in (one, two):
        storage._whole.watch.renew()
        await seen(storage, waiting=0)
        assert (await storage.activity(["jobs.b"]))["jobs.b"].waiting == 1


async def test_a_row_that_nobody_can_read_stops_nothing(more: Open) -> None:
    one = await more()
    await one.connection.publish(one.library.runs_prefix + "jobs.a.odd", b"{not json")
    driver = await Driver.begin(one)
    await driver.queue(driver.run("r1"))
    await driver.take("r1")
    assert (await more()).capabilities.queue


async def test_a_letter_tells_why_a_run_failed_for_good_and_goes_with_its_record(more: Open) -> None:
    one = await more()
    driver = await Driver.begin(one)
    await driver.queue(driver.run("r1", payload={"n": 1}), driver.run("r2"))
    for claim in await driver.take("r1", "r2"):
        await driver.end(claim, RunStatus.DEAD, reason=Reason.HANDLER_ERROR, error="Boom")
    subject = f"{one.library.dead_prefix}.r1.{JOB}"
    letter = await get_last(one.connection, one.library.dead_stream, subject)
    assert letter is not None
    told = msgspec.json.decode(letter.data)
    assert (told["status"], told["reason"], told["error"]) == ("dead", "handler_error", "Boom")
    assert told["run"]["payload"] == {"n": 1}
    assert await one.redrive("r2")
    assert await one.delete_runs(JOB, driver.now_ms + 60_000) == 2
    assert not await one.redrive("r1")


async def test_records_from_another_store_are_not_told_as_new_and_their_runs_not_queued_again(more: Open) -> None:
    one = await more()
    told: list[Run] = []
    watch = one.follow_runs(None, told.append)
    await watch.ready()
    at = SystemClock().now_ms()
    runs = [
        Run(job=JOB, status=RunStatus.COMPLETED, run_id=f"r{n}", scheduled_at_ms=at + n, finished_at_ms=at + n)
        for n in range(3)
    ]
    assert list(await one.import_runs(runs, dry_run=True)) == [True] * 3
    assert list(await one.import_runs(runs[:2])) == [True, True]
    assert list(await one.import_runs(runs)) == [False, False, True]
    driver = await Driver.begin(one)
    await driver.queue(driver.run("r1"), driver.run("r9"))
    [claim] = await driver.take("r9")
    await driver.end(claim)
    assert len(await one.list_runs(RunQuery(job=JOB))) == 4
    async with asyncio.timeout(5):
        while not told:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.01)
    assert [run.run_id for run in told] == ["r9"]
    await watch.close()


async def test_many_may_begin_at_once_on_an_empty_cluster_and_the_streams_keep_three_replicas(
    shared_cluster: NatsCluster,
) -> None:
    options = LibraryOptions(prefix=f"MANY{next(_numbers)}")
    storages = [NATSStorage(shared_cluster.url, options) for _ in range(6)]
    try:
        await asyncio.gather(*(storage.initialize() for storage in storages))
        streams = (
            options.jobs_stream,
            options.state_stream,
            options.log_stream,
            options.runs_stream,
            options.dead_stream,
        )
        alone = NATSStorage(shared_cluster.url, msgspec.structs.replace(options, replicas=1))
        storages.append(alone)
        await alone.initialize()
        for stream in streams:
            info = await alone.connection.js_request(f"STREAM.INFO.{stream}")
            assert info["config"]["num_replicas"] == 3, stream
    finally:
        for storage in storages:
            await storage.close()


async def test_a_stream_in_the_way_is_named(shared_nats: NatsServer, connection: Connection) -> None:
    options = LibraryOptions(prefix=f"TAKEN{next(_numbers)}")
    config = {"name": f"OTHER{next(_numbers)}", "subjects": [f"{options.dead_prefix}.>"]}
    await connection.js_request(f"STREAM.CREATE.{config['name']}", config)
    storage = NATSStorage(shared_nats.url, options)
    with pytest.raises(ConfigError, match=options.dead_stream):
        await storage.initialize()
    await connection.js_request(f"STREAM.DELETE.{config['name']}")
    await storage.initialize()
    await storage.close()


async def test_a_server_that_is_too_old_is_refused_with_both_versions(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_version(connection)
    monkeypatch.setattr(Connection, "server_version", property(lambda _self: (2, 10, 29)))
    with pytest.raises(ServerTooOldError, match=r"2\.10\.29.*2\.11\.0"):
        check_version(connection)


async def test_no_server_is_told_within_the_time_given() -> None:
    storage = NATSStorage("nats://127.0.0.1:1", connect_timeout_s=0.3)
    with pytest.raises(StorageUnavailableError, match=r"127\.0\.0\.1:1"):
        await storage.initialize()
    await storage.close()


async def test_rows_of_the_go_library_are_read(more: Open) -> None:
    one = await more()
    row = {
        "id": "reports.daily",
        "schedule_type": "interval",
        "schedule_config": "1m30s",
        "status": "disabled",
        "next_run": "2026-11-28T10:00:00.5Z",
        "last_run": "0001-01-01T00:00:00Z",
        "created_at": "2026-11-01T00:00:00Z",
        "updated_at": "2026-11-01T00:00:00Z",
        "metadata": {"team": "x"},
    }
    await one.connection.publish(one.library.jobs_prefix + "reports.daily", msgspec.json.encode(row))
    await one.connection.flush()
    job = await one.fetch_job("reports.daily")
    assert job is not None
    assert (job.invalid, job.paused, job.labels, job.overlap) == (None, True, {"team": "x"}, Overlap.SKIP)
    assert job.schedule is not None
    assert job.schedule.every == "1m30s"
    assert job.anchor_ms % 90_000 == (job.counts_from.at_ms + 1) % 90_000
    broken = row | {"id": "broken", "schedule_config": "soon"}
    await one.connection.publish(one.library.jobs_prefix + "broken", msgspec.json.encode(broken))
    await one.connection.flush()
    job = await one.fetch_job("broken")
    assert job is not None
    assert job.invalid


async def test_a_claim_that_the_store_cuts_short_gives_what_it_got(more: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await more()
    driver = await Driver.begin(one)
    await driver.queue(driver.run("r1"), driver.run("r2"))
    steps = one._whole.queue.steps
    put, calls = steps.put, count(1)

    async def fails_later(version: Version, row: RunRow) -> asyncio.Future[PubAck]:
        if next(calls) > 1:
            raise StorageUnavailableError("no connection")
        return await put(version, row)

    monkeypatch.setattr(steps, "put", fails_later)
    assert len((await driver.claim()).runs) == 1
    with pytest.raises(StorageUnavailableError):
        await driver.claim()
    monkeypatch.undo()
    assert len((await driver.claim()).runs) == 1


async def test_a_worker_after_a_restart_knows_when_the_job_last_completed(more: Open) -> None:
    one = await more()
    await one.create_job(a_job(JOB))
    driver = await Driver.begin(one)
    await driver.queue(driver.run("r1"))
    [claim] = await driver.take("r1")
    await driver.end(claim, finished_ms=claim.started_ms + 7)
    two = await more()
    # As if the row had gone by itself, and only the record were left.
    two._whole.view.forget_ends(JOB)
    await driver.queue(driver.run("r2"))
    await seen(two, waiting=1)
    two._whole.view.forget_ends(JOB)
    [later_one] = (await two.claim("w", ("",), 1)).runs
    assert later_one.last_completed_ms == claim.started_ms + 7


async def test_an_ending_whose_answer_was_lost_is_known_again_and_recorded_once(
    more: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await more()
    driver = await Driver.begin(one)
    await driver.queue(driver.run("r1"), driver.run("r2"))
    ended, again = await driver.take("r1", "r2")
    steps = one._whole.queue.steps
    put = steps.put

    async def unanswered(version: Version, row: RunRow) -> asyncio.Future[PubAck]:
        await (await put(version, row))
        answer: asyncio.Future[PubAck] = asyncio.get_running_loop().create_future()
        answer.set_exception(StorageUncertainError("no answer"))
        return answer

    monkeypatch.setattr(steps, "put", unanswered)
    endings = [ending_of(ended), ending_of(again, RunStatus.FAILED, retry_in_ms=0)]
    with pytest.raises(StorageUncertainError):
        await one.finish("w", endings)
    monkeypatch.undo()

    async def shown() -> bool:
        return (await one.activity([JOB]))[JOB].running == 0

    await later(shown)
    assert list(await one.finish("w", endings)) == [True, True]
    assert list(await one.finish("w", endings)) == [False, False]
    assert [run.status for run in await driver.tries("r1")] == [RunStatus.COMPLETED]
    assert [run.status for run in await driver.tries("r2")] == [RunStatus.FAILED, RunStatus.PENDING]
