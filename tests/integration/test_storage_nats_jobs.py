"""Provisioning and the job store on a real server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from natscron.clock import SystemClock
from natscron.errors import (
    ConfigError,
    JobAlreadyExistsError,
    JobNotFoundError,
    LimitExceededError,
    StorageUnavailableError,
    WrongRevisionError,
)
from natscron.model import Calendar, Job, ScheduleSpec, Stamp
from natscron.storage.nats import NatsStorage, NatsStorageOptions
from natscron.storage.nats.jobs import TOMBSTONE_AGE_MS
from natscron.testing.nats import NatsCluster, NatsServer
from natscron.wire.connection import Connection
from natscron.wire.kv import bucket_config, get_last
from natscron.wire.options import ConnectOptions

if TYPE_CHECKING:
    from natscron.storage.protocol import Storage

pytestmark = pytest.mark.anyio

EVERY = ScheduleSpec(every="30s")
_numbers = count(1)


class MovedClock:
    """The host's clock, moved by ``ahead_ms``."""

    timer_slack_s = 0.0

    def __init__(self) -> None:
        self._clock = SystemClock()
        self.ahead_ms = 0

    def now_ms(self) -> int:
        return self._clock.now_ms() + self.ahead_ms

    def now_s(self) -> float:
        return self.now_ms() / 1000

    def trust_s(self) -> float:
        return self._clock.trust_s()


class Table:
    """A job sink that remembers."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.fresh: set[str] | None = None
        self.deleted: list[str] = []
        self.seq = -1
        self.resets = 0
        self._changed = asyncio.Event()

    def reset(self) -> None:
        self.resets += 1
        self.fresh = set()

    def put(self, job: Job) -> None:
        self.jobs[job.id] = job
        if self.fresh is not None:
            self.fresh.add(job.id)

    def delete(self, job_id: str, seq: int) -> None:
        assert seq > 0
        self.deleted.append(job_id)
        self.jobs.pop(job_id, None)

    def put_calendar(self, calendar: Calendar) -> None:
        raise AssertionError(calendar)

    def delete_calendar(self, name: str, seq: int) -> None:
        raise AssertionError((name, seq))

    def complete(self, seq: int) -> None:
        if self.fresh is not None:
            self.jobs = {job_id: job for job_id, job in self.jobs.items() if job_id in self.fresh}
            self.fresh = None
        self.seq = seq
        self._changed.set()

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(15):
            while not done():
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def options() -> NatsStorageOptions:
    return NatsStorageOptions(name=f"jobs-{next(_numbers)}")


@asynccontextmanager
async def opened(url: str, options: NatsStorageOptions, clock: MovedClock | None = None) -> AsyncIterator[NatsStorage]:
    storage = NatsStorage(ConnectOptions(url=url), options, clock=clock)
    await storage.initialize()
    try:
        yield storage
    finally:
        await storage.close()


@pytest.fixture
async def storage(shared_nats: NatsServer, options: NatsStorageOptions) -> AsyncIterator[NatsStorage]:
    async with opened(shared_nats.url, options) as storage:
        yield storage


async def info(storage: NatsStorage, stream: str) -> dict[str, int]:
    found: dict[str, int] = (await storage.connection.js_request(f"STREAM.INFO.{stream}"))["config"]
    return found


# Provisioning.


async def test_eight_instances_may_start_at_once_on_an_empty_server(nats_server: NatsServer) -> None:
    storages = [NatsStorage(ConnectOptions(url=nats_server.url)) for _ in range(8)]
    await asyncio.gather(*(storage.initialize() for storage in storages))
    names = (await storages[0].connection.js_request("STREAM.NAMES"))["streams"]
    assert sorted(names) == ["KV_nats-cron-jobs", "KV_nats-cron-state", "NATS_CRON_LOG"]
    assert [storage.warnings for storage in storages] == [()] * 8
    for storage in storages:
        await storage.close()


async def test_eight_instances_may_start_at_once_on_an_empty_cluster(
    shared_cluster: NatsCluster, options: NatsStorageOptions
) -> None:
    storages = [NatsStorage(ConnectOptions(url=shared_cluster.url), options) for _ in range(8)]
    await asyncio.gather(*(storage.initialize() for storage in storages))
    for stream in (options.jobs_stream, options.state_stream, options.log_stream):
        assert (await info(storages[0], stream))["num_replicas"] == 3
    assert await storages[0].create_job(Job(id="a")) == 1
    for storage in storages:
        await storage.close()


async def test_the_jobs_bucket_is_what_the_go_version_makes(storage: NatsStorage, options: NatsStorageOptions) -> None:
    found = await info(storage, options.jobs_stream)
    expected = {
        "max_msgs_per_subject": 1,
        "max_age": 0,
        "duplicate_window": 120_000_000_000,
        "storage": "file",
        "discard": "new",
        "allow_direct": True,
        "deny_delete": True,
        "allow_rollup_hdrs": True,
        "retention": "limits",
        "num_replicas": 1,
    }
    assert {key: found[key] for key in expected} == expected


async def test_replicas_are_never_lowered(shared_cluster: NatsCluster, options: NatsStorageOptions) -> None:
    async with opened(shared_cluster.url, options):
        pass
    fewer = NatsStorageOptions(name=options.name, replicas=1)
    async with opened(shared_cluster.url, fewer) as storage:
        assert (await info(storage, options.jobs_stream))["num_replicas"] == 3


async def test_a_bucket_with_one_replica_gets_more_in_a_cluster(
    shared_cluster: NatsCluster, options: NatsStorageOptions
) -> None:
    connection = await Connection.connect(ConnectOptions(url=shared_cluster.url))
    await connection.js_request(f"STREAM.CREATE.{options.jobs_stream}", bucket_config(options.jobs_bucket))
    await connection.close()
    async with opened(shared_cluster.url, options) as storage:
        assert (await info(storage, options.jobs_stream))["num_replicas"] == 3


async def test_the_limits_of_the_log_follow_the_options(storage: NatsStorage, options: NatsStorageOptions) -> None:
    changed = NatsStorageOptions(name=options.name, log_per_job=7, log_max_age_ms=3_600_000)
    async with opened(storage.connection.dial.redacted, changed):
        found = await info(storage, options.log_stream)
    assert (found["max_msgs_per_subject"], found["max_age"]) == (7, 3_600_000_000_000)


async def test_a_state_bucket_of_an_older_make_gets_time_to_live(
    connection: Connection, shared_nats: NatsServer, options: NatsStorageOptions
) -> None:
    await connection.js_request(f"STREAM.CREATE.{options.state_stream}", bucket_config(options.state_bucket))
    async with opened(shared_nats.url, options) as storage:
        assert (await info(storage, options.state_stream))["allow_msg_ttl"] is True


async def test_a_state_bucket_that_forgets_is_refused(
    connection: Connection, shared_nats: NatsServer, options: NatsStorageOptions
) -> None:
    config = {**bucket_config(options.state_bucket), "max_age": 30_000_000_000, "duplicate_window": 30_000_000_000}
    await connection.js_request(f"STREAM.CREATE.{options.state_stream}", config)
    storage = NatsStorage(ConnectOptions(url=shared_nats.url), options)
    with pytest.raises(ConfigError, match="max_age of 30000 ms"):
        await storage.initialize()
    await storage.close()


async def test_a_stream_that_captures_the_api_is_named(
    connection: Connection, shared_nats: NatsServer, options: NatsStorageOptions
) -> None:
    config = {"name": f"greedy-{options.name}", "subjects": [f"{options.name}.jobs.*"], "storage": "memory"}
    await connection.js_request(f"STREAM.CREATE.greedy-{options.name}", config)
    async with opened(shared_nats.url, options) as storage:
        assert len(storage.warnings) == 1
        assert f"stream greedy-{options.name} captures {options.name}.jobs.>" in storage.warnings[0]


async def test_subjects_that_belong_to_another_stream_are_a_configuration_error(
    connection: Connection, shared_nats: NatsServer, options: NatsStorageOptions
) -> None:
    config = {"name": f"taken-{options.name}", "subjects": [f"{options.log_prefix}.>"], "storage": "memory"}
    await connection.js_request(f"STREAM.CREATE.taken-{options.name}", config)
    storage = NatsStorage(ConnectOptions(url=shared_nats.url), options)
    with pytest.raises(ConfigError, match="belongs to another stream"):
        await storage.initialize()
    await storage.close()


async def test_a_server_without_jetstream_is_named(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "plain", jetstream=False) as server:
        storage = NatsStorage(ConnectOptions(url=server.url), NatsStorageOptions(provision_timeout_s=0.2))
        with pytest.raises(StorageUnavailableError, match="JetStream"):
            await storage.initialize()
        await storage.close()


async def test_a_storage_may_be_closed_twice_and_before_it_was_opened(storage: NatsStorage) -> None:
    unopened = NatsStorage(ConnectOptions(url="nats://127.0.0.1:1"))
    await unopened.close()
    with pytest.raises(StorageUnavailableError, match="not initialized"):
        await unopened.last_jobs_seq()
    await storage.health_check()
    await storage.initialize()
    await storage.close()
    await storage.close()
    with pytest.raises(StorageUnavailableError):
        await storage.health_check()


async def test_a_connection_that_was_handed_in_is_left_open(
    connection: Connection, options: NatsStorageOptions
) -> None:
    storage: Storage = NatsStorage(connection, options)
    await storage.initialize()
    await storage.close()
    assert connection.is_connected


@pytest.mark.parametrize(
    "wrong",
    [{"name": "a b"}, {"jobs_bucket": "x.y"}, {"log_prefix": "a.>"}, {"replicas": 6}, {"log_per_job": 0}],
)
def test_names_that_nats_cannot_take_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        NatsStorageOptions(**wrong)  # type: ignore[arg-type]


# Writing.


async def test_a_job_is_created_read_and_deleted(storage: NatsStorage) -> None:
    revision = await storage.create_job(Job(id="a.b", schedule=EVERY, note="n"))
    job = await storage.fetch_job("a.b")
    assert job is not None
    assert (job.id, job.schedule, job.note, job.invalid) == ("a.b", EVERY, "n", None)
    assert (job.revision, job.generation, job.counts_from.seq) == (revision, revision, revision)
    assert job.created_at_ms == job.anchor_ms == job.updated_at_ms == job.counts_from.at_ms > 0
    await storage.delete_job("a.b")
    assert await storage.fetch_job("a.b") is None
    assert await storage.last_jobs_seq() == revision + 1


async def test_an_id_that_is_no_key_is_stored_under_an_encoded_one(storage: NatsStorage) -> None:
    for job_id in ("a:b", "\u00fc ber", "_x", "a..b"):
        await storage.create_job(Job(id=job_id, schedule=EVERY))
        job = await storage.fetch_job(job_id)
        assert job is not None
        assert (job.id, job.invalid) == (job_id, None)


async def test_an_id_that_would_break_the_protocols_line_is_refused(storage: NatsStorage) -> None:
    for job_id in ("x" * 5_000, "\u00fc" * 1_000):
        with pytest.raises(LimitExceededError, match="at most 1024"):
            await storage.create_job(Job(id=job_id))
        with pytest.raises(LimitExceededError):
            await storage.delete_job(job_id)
    await storage.health_check()


async def test_a_second_create_is_refused_in_the_go_versions_words(storage: NatsStorage) -> None:
    await storage.create_job(Job(id="a"))
    with pytest.raises(JobAlreadyExistsError, match=r"^job with subject a already exists$"):
        await storage.create_job(Job(id="a"))


async def test_of_many_creates_at_once_one_wins(storage: NatsStorage) -> None:
    results = await asyncio.gather(*(storage.create_job(Job(id="a")) for _ in range(50)), return_exceptions=True)
    assert len([result for result in results if isinstance(result, int)]) == 1
    assert len([result for result in results if isinstance(result, JobAlreadyExistsError)]) == 49


async def test_a_deleted_job_may_be_created_again_as_a_new_one(storage: NatsStorage) -> None:
    first = await storage.create_job(Job(id="a"))
    await storage.delete_job("a")
    second = await storage.create_job(Job(id="a"))
    job = await storage.fetch_job("a")
    assert job is not None
    assert job.generation == second > first


async def test_revisions_guard_every_write(storage: NatsStorage) -> None:
    first = await storage.create_job(Job(id="a"))
    second = await storage.put_job(Job(id="a", note="2"), first)
    with pytest.raises(WrongRevisionError):
        await storage.put_job(Job(id="a", note="3"), first)
    with pytest.raises(WrongRevisionError):
        await storage.put_job(Job(id="a"), 0)
    with pytest.raises(WrongRevisionError):
        await storage.delete_job("a", first)
    job = await storage.fetch_job("a")
    assert job is not None
    assert job.note == "2"
    await storage.delete_job("a", second)
    with pytest.raises(WrongRevisionError):
        await storage.put_job(Job(id="a"), second)
    assert await storage.put_job(Job(id="a"), 0) == second + 2
    assert await storage.put_job(Job(id="b")) == second + 3


async def test_deleting_an_unknown_job_writes_nothing(storage: NatsStorage) -> None:
    with pytest.raises(JobNotFoundError):
        await storage.delete_job("a")
    assert await storage.last_jobs_seq() == 0


async def test_old_tombstones_are_purged_and_newer_rows_stay(
    shared_nats: NatsServer, options: NatsStorageOptions
) -> None:
    clock = MovedClock()
    async with opened(shared_nats.url, options, clock) as storage:
        for job_id in ("a", "b", "c"):
            await storage.create_job(Job(id=job_id))
            await storage.delete_job(job_id)
        await storage.create_job(Job(id="b"))
        table = Table()
        watch = storage.watch_jobs(table)
        await watch.ready()
        await storage.sweep()
        assert await get_last(storage.connection, options.jobs_stream, options.jobs_prefix + "a") is not None
        clock.ahead_ms = TOMBSTONE_AGE_MS + 60_000
        await storage.sweep()
        assert await get_last(storage.connection, options.jobs_stream, options.jobs_prefix + "a") is None
        assert await get_last(storage.connection, options.jobs_stream, options.jobs_prefix + "c") is None
        assert await storage.fetch_job("b") is not None
        assert await storage.create_job(Job(id="a")) > 0
        await watch.close()


# Rows of other writers.


async def test_rows_of_every_go_version_are_read(storage: NatsStorage, options: NatsStorageOptions) -> None:
    rows = {
        "v2.a": b'{"subject":"v2.a","schedule":{"every":"30s"}}',
        "v1.a": b'{"target":{"subject":"v1.a"},"payload":{"type":"json","data":"{}"},"schedule":{"every":"30s"},'
        b'"last_run":"0001-01-01T00:00:00Z","next_run":"2026-11-20T09:19:23.716122941Z"}',
        "bad": b"nope",
        "other": b'{"subject":"elsewhere","schedule":{"every":"30s"}}',
        "_go": b'{"subject":"_go","schedule":{"every":"30s"}}',
    }
    for key, value in rows.items():
        await storage.connection.request(options.jobs_prefix + key, value)
    table = Table()
    watch = storage.watch_jobs(table)
    await watch.ready()
    assert set(table.jobs) == set(rows)
    for good in ("v1.a", "v2.a"):
        job = table.jobs[good]
        assert (job.schedule, job.generation, job.invalid) == (EVERY, 0, None)
        assert job.counts_from == Stamp(job.anchor_ms, job.revision)
    assert all(table.jobs[bad].invalid for bad in ("bad", "other", "_go"))
    for key in rows:
        await storage.delete_job(key)
    await table.until(lambda: not table.jobs)
    await watch.close()


async def test_the_watch_and_a_fetch_agree_on_what_a_row_says(storage: NatsStorage) -> None:
    table = Table()
    watch = storage.watch_jobs(table)
    await watch.ready()
    await storage.create_job(Job(id="a", schedule=EVERY))
    await table.until(lambda: "a" in table.jobs)
    assert await storage.fetch_job("a") == table.jobs["a"]
    await watch.close()


async def test_the_watch_learns_of_every_change_and_says_how_far_it_is(storage: NatsStorage) -> None:
    table = Table()
    watch = storage.watch_jobs(table)
    await watch.ready()
    assert (table.seq, table.jobs) == (0, {})
    await asyncio.gather(*(storage.create_job(Job(id=f"a.{number}")) for number in range(300)))
    await storage.delete_job("a.7")
    seq = await storage.last_jobs_seq()
    await table.until(lambda: table.seq >= seq)
    assert len(table.jobs) == 299
    assert table.deleted == ["a.7"]
    await watch.close()


async def test_the_watch_survives_a_killed_server(nats_server: NatsServer, options: NatsStorageOptions) -> None:
    async with opened(nats_server.url, options) as storage:
        table = Table()
        watch = storage.watch_jobs(table)
        await watch.ready()
        await storage.create_job(Job(id="a"))
        await storage.create_job(Job(id="b"))
        nats_server.kill()
        nats_server.start()
        async with opened(nats_server.url, options) as other:
            await other.delete_job("a")
            await other.create_job(Job(id="c"))
            seq = await other.last_jobs_seq()
        await table.until(lambda: table.seq >= seq and table.fresh is None)
        assert set(table.jobs) == {"b", "c"}
        assert table.resets >= 2
        await watch.close()


async def test_a_full_set_forgets_what_was_purged_while_nobody_looked(
    storage: NatsStorage, options: NatsStorageOptions
) -> None:
    await storage.create_job(Job(id="a"))
    await storage.create_job(Job(id="b"))
    table = Table()
    watch = storage.watch_jobs(table)
    await watch.ready()
    request = {"filter": options.jobs_prefix + "a"}
    await storage.connection.js_request(f"STREAM.PURGE.{options.jobs_stream}", request)
    watch.renew()
    await table.until(lambda: table.resets == 2 and table.fresh is None)
    assert set(table.jobs) == {"b"}
    await watch.close()


async def test_writes_while_the_server_is_away_fail_and_later_ones_work(
    nats_server: NatsServer, options: NatsStorageOptions
) -> None:
    async with opened(nats_server.url, options) as storage:
        link = UpAndDown()
        storage.connection.add_listener(link)
        nats_server.kill()
        await asyncio.wait_for(link.down.wait(), 10)
        with pytest.raises(StorageUnavailableError):
            await storage.create_job(Job(id="a"))
        nats_server.start()
        await asyncio.wait_for(link.up.wait(), 10)
        assert await storage.create_job(Job(id="a")) == 1


class UpAndDown:
    """Told about a connection."""

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.down = asyncio.Event()

    def on_down(self) -> None:
        self.down.set()

    def on_up(self) -> None:
        self.up.set()
