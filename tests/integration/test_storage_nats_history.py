"""Run records on a real server."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import msgspec
import pytest

from natscron.clock import SystemClock
from natscron.errors import StorageUnavailableError, StorageUncertainError, ValidationError
from natscron.ids import ulid
from natscron.model import Delivery, Run, RunStatus
from natscron.storage.nats import NatsStorage, NatsStorageOptions, history
from natscron.storage.protocol import RunQuery
from natscron.testing.nats import NatsCluster, NatsServer
from natscron.wire.connection import Connection
from natscron.wire.options import ConnectOptions

pytestmark = pytest.mark.anyio

_numbers = count(1)


@pytest.fixture
async def storage(shared_nats: NatsServer) -> AsyncIterator[NatsStorage]:
    storage = NatsStorage(ConnectOptions(url=shared_nats.url), NatsStorageOptions(name=f"runs-{next(_numbers)}"))
    await storage.initialize()
    yield storage
    await storage.close()


def a_run(job: str, number: int, status: RunStatus = RunStatus.SENT) -> Run:
    return Run(
        job=job,
        status=status,
        run_id=f"{job}-{number:05d}",
        scheduled_at_ms=number,
        finished_at_ms=1_000 + number,
        delivery=Delivery.CORE,
    )


async def test_one_jobs_newest_records_are_found_among_many(storage: NatsStorage) -> None:
    await storage.save_runs([a_run(f"j.{n % 40}", n) for n in range(4_000)])
    found = await storage.list_runs(RunQuery(job="j.7", limit=3))
    assert [run.run_id for run in found] == ["j.7-03967", "j.7-03927", "j.7-03887"]
    assert await storage.list_runs(RunQuery(job="j.unknown")) == []


async def test_the_log_keeps_as_many_records_a_job_as_it_was_told(shared_nats: NatsServer) -> None:
    options = NatsStorageOptions(name=f"runs-{next(_numbers)}", log_per_job=5)
    storage = NatsStorage(ConnectOptions(url=shared_nats.url), options)
    await storage.initialize()
    await storage.save_runs([a_run("a", n) for n in range(300)])
    found = await storage.list_runs(RunQuery(job="a", descending=False))
    assert [run.scheduled_at_ms for run in found] == [295, 296, 297, 298, 299]
    await storage.close()


async def test_records_of_all_jobs_are_read_from_the_end(storage: NatsStorage) -> None:
    await storage.save_runs([a_run(f"j{n % 50}", n) for n in range(3_000)])
    newest = await storage.list_runs(RunQuery(limit=4, offset=2))
    assert [run.scheduled_at_ms for run in newest] == [2997, 2996, 2995, 2994]
    oldest = await storage.list_runs(RunQuery(limit=2, descending=False))
    assert [run.scheduled_at_ms for run in oldest] == [0, 1]
    one = await storage.list_runs(RunQuery(run_id="j3-00003"))
    assert [run.job for run in one] == ["j3"]


async def test_a_run_is_found_by_its_id_alone(storage: NatsStorage) -> None:
    now_ms = SystemClock().now_ms()
    wanted = ulid(now_ms)
    runs = [a_run(f"j{n % 50}", n) for n in range(2_000)]
    runs[700] = msgspec.structs.replace(runs[700], run_id=wanted, finished_at_ms=now_ms)
    await storage.save_runs(runs)
    assert [run.scheduled_at_ms for run in await storage.list_runs(RunQuery(run_id=wanted))] == [700]
    assert await storage.list_runs(RunQuery(run_id=ulid(now_ms))) == []
    assert await storage.list_runs(RunQuery(run_id=ulid(now_ms + 3_600_000))) == []


async def test_records_of_all_jobs_are_bounded_by_time(storage: NatsStorage) -> None:
    now_ms = SystemClock().now_ms()
    await storage.save_runs([msgspec.structs.replace(a_run("a", n), finished_at_ms=now_ms - 10 + n) for n in range(20)])
    hour = 3_600_000
    assert len(await storage.list_runs(RunQuery(since_ms=now_ms))) == 10
    assert len(await storage.list_runs(RunQuery(until_ms=now_ms))) == 10
    assert await storage.list_runs(RunQuery(since_ms=now_ms + hour)) == []
    assert await storage.list_runs(RunQuery(until_ms=now_ms - hour)) == []


async def test_records_are_filtered_by_status_and_time(storage: NatsStorage) -> None:
    await storage.save_runs([a_run("a", n, RunStatus.FAILED if n % 2 else RunStatus.SENT) for n in range(10)])
    failed = await storage.list_runs(RunQuery(status=RunStatus.FAILED, job="a"))
    assert [run.scheduled_at_ms for run in failed] == [9, 7, 5, 3, 1]
    window = await storage.list_runs(RunQuery(since_ms=1_003, until_ms=1_006, descending=False))
    assert [run.scheduled_at_ms for run in window] == [3, 4, 5]


async def test_the_last_record_of_a_run_and_attempt_counts(storage: NatsStorage) -> None:
    await storage.save_runs([a_run("a", 1, RunStatus.RUNNING), a_run("a", 2), a_run("a", 1, RunStatus.FAILED)])
    found = await storage.list_runs(RunQuery(job="a"))
    assert {run.run_id: run.status for run in found} == {"a-00001": RunStatus.FAILED, "a-00002": RunStatus.SENT}


async def test_a_record_that_is_far_too_long_is_cut_and_stops_no_other(storage: NatsStorage) -> None:
    long = msgspec.structs.replace(a_run("a", 1), result="x" * 3_000_000, error="short")
    await storage.save_runs([a_run("a", 0), long, a_run("a", 2)])
    found = await storage.list_runs(RunQuery(job="a", descending=False))
    assert [run.scheduled_at_ms for run in found] == [0, 1, 2]
    assert found[1].error == "short"
    assert found[1].result is not None
    assert found[1].result.endswith("x... (3000000 characters)")


async def test_records_written_while_nats_is_away_may_be_there_or_not(nats_server: NatsServer) -> None:
    storage = NatsStorage(ConnectOptions(url=nats_server.url))
    await storage.initialize()
    nats_server.suspend()
    writing = asyncio.ensure_future(storage.save_runs([a_run("a", n) for n in range(1_000)]))
    await asyncio.sleep(0)
    nats_server.kill()
    with pytest.raises(StorageUncertainError):
        await writing
    nats_server.start()
    watch = storage.follow_runs(None, lambda _: None)
    await watch.ready()
    await storage.save_runs([a_run("a", n) for n in range(1_000)])
    assert len(await storage.list_runs(RunQuery(job="a"))) == 100
    await storage.close()


async def test_records_are_followed_live(storage: NatsStorage) -> None:
    await storage.save_runs([a_run("a", 1)])
    one: list[Run] = []
    every: list[Run] = []
    done = asyncio.Event()

    def take(run: Run) -> None:
        every.append(run)
        if run.run_id == "a-00003":
            done.set()

    watches = [storage.follow_runs("a", one.append), storage.follow_runs(None, take)]
    for watch in watches:
        await watch.ready()
    await storage.save_runs([a_run("a", 2), a_run("odd id", 2), a_run("_service", 1), a_run("a", 3)])
    await asyncio.wait_for(done.wait(), 10)
    assert [run.job for run in every] == ["a", "odd id", "_service", "a"]
    assert [run.run_id for run in one] == ["a-00002", "a-00003"]
    assert len(await storage.list_runs(RunQuery(job="_service"))) == 1
    assert len(await storage.list_runs(RunQuery(job="odd id"))) == 1
    for watch in watches:
        await watch.close()


@pytest.mark.parametrize("limit", [0, 10_001])
async def test_a_query_is_bounded(storage: NatsStorage, limit: int) -> None:
    with pytest.raises(ValidationError, match="limit"):
        await storage.list_runs(RunQuery(limit=limit))


async def test_a_stream_longer_than_the_scan_is_read_where_the_records_must_be(
    storage: NatsStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "SCAN_LIMIT", 50)
    monkeypatch.setattr(history, "LATE_MS", 0)
    monkeypatch.setattr(history, "SKEW_MS", 0)
    clock = SystemClock()
    await storage.save_runs([a_run("a", n) for n in range(100)])
    newest = await storage.fetch_job("a")  # a round trip: the stream's clock has gone on
    assert newest is None
    between_ms = clock.now_ms() + 1
    while clock.now_ms() <= between_ms:
        await storage.health_check()
    wanted = ulid(clock.now_ms())
    late = [msgspec.structs.replace(a_run("b", n), finished_at_ms=clock.now_ms()) for n in range(100)]
    late[0] = msgspec.structs.replace(late[0], run_id=wanted)
    await storage.save_runs(late)
    assert {run.job for run in await storage.list_runs(RunQuery(until_ms=between_ms))} == {"a"}
    assert len(await storage.list_runs(RunQuery(limit=1_000))) == 50
    assert [run.scheduled_at_ms for run in await storage.list_runs(RunQuery(run_id=wanted))] == [0]


async def test_last_runs_of_one_and_of_thousands_are_the_newest_slots(storage: NatsStorage) -> None:
    await storage.save_runs([a_run(f"j.{n % 2_500}", n) for n in range(5_000)])
    assert await storage.last_runs(["j.7"]) == {"j.7": 2_507}
    assert await storage.last_runs(["j.unknown"]) == {}
    assert await storage.last_runs([]) == {}
    asked = [f"j.{n}" for n in range(2_500)] + ["j.unknown", "nie. gehört"]
    assert await storage.last_runs(asked) == {f"j.{n}": 2_500 + n for n in range(2_500)}


async def test_slots_that_were_skipped_do_not_count_as_last_runs(storage: NatsStorage) -> None:
    gap = Run(job="away", status=RunStatus.SKIPPED, from_ms=7, to_ms=9, count=3)
    runs = [a_run("busy", 5), a_run("busy", 6, RunStatus.SKIPPED), a_run("never", 5, RunStatus.SKIPPED)]
    await storage.save_runs([*runs, a_run("away", 3), a_run("away", 4), gap])
    assert await storage.last_runs(["busy", "never", "away"]) == {"busy": 5, "away": 4}


async def test_last_runs_without_the_log_stream_say_that_it_is_not_there(storage: NatsStorage) -> None:
    await storage.connection.js_request(f"STREAM.DELETE.{storage.options.log_stream}")
    for jobs in (["a"], ["a", "b"]):
        with pytest.raises(StorageUnavailableError):
            await storage.last_runs(jobs)


@pytest.mark.parametrize("refused", [0, 30, 63])
async def test_in_a_cluster_a_record_that_was_not_stored_is_noticed_wherever_it_stands(
    shared_cluster: NatsCluster, refused: int
) -> None:
    """As between two leaders of the log, which drop some of what comes; here the server takes none so long."""
    connection = await Connection.connect(ConnectOptions(url=shared_cluster.url))
    storage = NatsStorage(connection, NatsStorageOptions(name=f"runs-{next(_numbers)}"))
    await storage.initialize()
    stream = storage.options.log_stream
    config = (await connection.js_request(f"STREAM.INFO.{stream}"))["config"]
    await connection.js_request(f"STREAM.UPDATE.{stream}", {**config, "max_msg_size": 1_000})
    runs = [a_run("a", n) for n in range(64)]
    await storage.save_runs(runs)
    runs[refused] = msgspec.structs.replace(runs[refused], error="x" * 2_000)
    with pytest.raises(StorageUncertainError, match="size"):
        await storage.save_runs(runs)
    await storage.close()
    await connection.close()
