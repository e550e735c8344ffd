"""A Scheduler from configuration, with the keys of the Go module; and what the module promises."""

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

import natscron.sync
from natscron import (
    ConfigError,
    JobAlreadyExistsError,
    JobEvent,
    MemoryStorage,
    ModeNotConfiguredError,
    Run,
    Scheduler,
    SchedulerNotStartedError,
    SQLStorage,
    ValidationError,
    every,
)
from natscron.model import Timer
from natscron.scheduler.module import configured
from natscron.scheduler.options import SchedulerOptions
from natscron.storage.nats import NATSStorage
from natscron.storage.sql import SQLOptions

pytestmark = pytest.mark.anyio

SELDOM = every("1h")
SECRET = "s3cr3t-w0rd"  # noqa: S105 - nobody has it


def nothing(_event: JobEvent) -> None:
    pass


def options_of(scheduler: Scheduler | natscron.sync.Scheduler) -> SchedulerOptions:
    inside = scheduler._inside if isinstance(scheduler, natscron.sync.Scheduler) else scheduler
    return inside._options


def sql_options(source: Mapping[str, Any], scope: str = "scheduler") -> SQLOptions:
    storage = configured(source, scope).storage
    assert isinstance(storage, SQLStorage)
    return storage.options


# Where it comes from.


@pytest.mark.parametrize(
    "source",
    [
        {"scheduler": {"mode": "memory", "postgres": {"maxConcurrentExecutions": 7}}},
        {"scheduler": {"mode": "memory", "postgres": {"max_concurrent_executions": 7}}},
        {"scheduler": {"mode": "memory", "postgres.maxConcurrentExecutions": 7}},
        {"scheduler.mode": "memory", "scheduler.postgres.maxConcurrentExecutions": "7"},
        {"SCHEDULER": {"MODE": "Memory", "POSTGRES": {"MAXCONCURRENTEXECUTIONS": 7}}},
        {"mode": "memory", "postgres": {"maxConcurrentExecutions": 7}},
        {"mode": "memory", "concurrency": 7},
        {"web": {"port": 1}, "scheduler": {"mode": "memory", "concurrency": 7}, "log": None},
    ],
)
def test_keys_are_read_in_every_form(source: Mapping[str, Any]) -> None:
    assert options_of(Scheduler.from_config(source)).concurrency == 7


def test_another_scope_is_another_table() -> None:
    source = {"scheduler": {"mode": "memory", "concurrency": 1}, "jobs": {"night-shift": {"mode": "memory"}}}
    assert options_of(Scheduler.from_config(source)).concurrency == 1
    assert options_of(Scheduler.from_config(source, "jobs.nightShift")).concurrency == 100
    assert options_of(Scheduler.from_config({"mode": "memory", "concurrency": 3}, "")).concurrency == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("app.toml", '[scheduler]\nmode = "memory"\n[scheduler.postgres]\nmaxConcurrentExecutions = 9\n'),
        ("app.json", '{"scheduler": {"mode": "memory", "postgres": {"maxConcurrentExecutions": 9}}}'),
    ],
)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_file_is_toml_or_json(tmp_path: Path, name: str, text: str, kind: type) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert options_of(Scheduler.from_config(kind(path))).concurrency == 9


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("app.toml", f'[scheduler]\nurl = "{SECRET}', "is not TOML"),
        ("app.json", f'{{"scheduler": {{"url": "{SECRET}"', "is not JSON, line 1 column"),
        ("app.json", "[]", "must hold a table"),
        ("app.yaml", "", "must end in .toml or .json"),
        ("app.toml", "\ufffe", "is not TOML"),
        ("app.toml", "[scheduler]\nnonsense = 1", "unknown key 'nonsense'"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_and_not_shown(tmp_path: Path, name: str, text: str, told: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as raised:
        Scheduler.from_config(path)
    assert str(path) in str(raised.value)
    assert SECRET not in str(raised.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read: No such file"):
        Scheduler.from_config("nowhere.toml")


def test_a_url_is_not_taken_for_a_file_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="a mapping, or the path") as raised:
        Scheduler.from_config(f"postgresql://me:{SECRET}@host/db")
    assert SECRET not in str(raised.value)
    with pytest.raises(ConfigError, match="a mapping, or the path"):
        Scheduler.from_config(7)  # type: ignore[arg-type]  # what a caller without types may do


# Modes.


@pytest.mark.parametrize("mode", ["sql", "gorm", "postgres", "SQL", None])
async def test_every_sql_mode_is_a_sql_storage_which_is_the_default(mode: str | None, tmp_path: Path) -> None:
    source = {"url": f"sqlite:///{tmp_path}/jobs.db"} | ({} if mode is None else {"mode": mode})
    scheduler = Scheduler.from_config({"scheduler": source}, handler=nothing)
    async with scheduler:
        await scheduler.add_job("a", SELDOM)
        assert [job.id for job in await scheduler.list_jobs()] == ["a"]
    async with Scheduler.from_config({"scheduler": {"dsn": source["url"]}}, handler=nothing) as again:
        assert [job.id for job in await again.list_jobs()] == ["a"]


async def test_an_engine_or_a_storage_goes_before_the_url(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/engine.db")
    source = {"url": "postgresql://nobody@localhost:1/nothing"}
    async with Scheduler.from_config(source, engine=engine, handler=nothing) as scheduler:
        await scheduler.add_job("a", SELDOM)
    async with Scheduler.from_config({}, engine=engine, handler=nothing) as scheduler:
        assert [job.id for job in await scheduler.list_jobs()] == ["a"]
    await engine.dispose()

    storage = MemoryStorage()
    async with Scheduler.from_config(source, storage=storage, handler=nothing) as scheduler:
        await scheduler.add_job("b", SELDOM)
    assert await storage.fetch_job("b") is not None


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({}, "mode 'sql' needs a database"),
        ({"scheduler": {}}, "mode 'sql' needs a database"),
        ({"mode": "gorm"}, "mode 'gorm' needs a database"),
        ({"mode": "postgres", "nats": {"streamName": "S"}}, "mode 'postgres' needs a database"),
        ({"mode": "nats"}, "mode 'nats' needs a server"),
        ({"mode": "nats", "url": "sqlite:///x.db"}, "mode 'nats' needs a url that begins with nats://"),
        ({"url": "mssql://host/db"}, "with scheme 'mssql' is not supported"),
        ({"url": "sqlite://"}, "SQLite in memory"),
    ],
)
def test_what_a_mode_lacks_is_said(source: Mapping[str, Any], told: str) -> None:
    with pytest.raises(ModeNotConfiguredError, match=told) as raised:
        Scheduler.from_config(source)
    assert "the mapping" in str(raised.value)


def test_a_missing_driver_is_a_mode_that_is_not_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util  # noqa: PLC0415 - to be looked into

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "asyncpg" else found(name))
    with pytest.raises(ModeNotConfiguredError, match=r"pip install 'natscron\[postgres\]'"):
        Scheduler.from_config({"url": "postgresql://me@host/db"})


def test_a_synchronous_engine_is_refused() -> None:
    with pytest.raises(ModeNotConfiguredError, match="must be SQLAlchemy's AsyncEngine"):
        Scheduler.from_config({}, engine=create_engine("sqlite:///x.db"))


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="mode must be one of memory, sql, gorm, postgres, nats; got 'redis'"):
        Scheduler.from_config({"mode": "redis"})


# Keys.


def test_an_unknown_key_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError) as raised:
        Scheduler.from_config({"scheduler": {"mode": "memory", "postgres": {"pollIntervall": "1s"}}})
    text = str(raised.value)
    assert text.startswith("the mapping: unknown key 'postgres.pollIntervall' of scheduler; known are mode, url, dsn, ")
    assert "postgres.pollInterval" in text
    assert "nats.reconcilerInterval" in text


NO_MEANING = {
    "nats": {
        "reconcilerInterval": "30s",
        "reconcilerGracePeriod": "30s",
        "addJobRetryBudget": "5s",
        "jetStreamReadyTimeout": "30s",
        "startPhaseTimeout": "30s",
        "startupStreamReadyTimeout": "30s",
        "loadJobsConcurrency": 32,
        "loadJobsAsyncPublishTimeout": "30s",
        "publishRetry": {"attempts": 3, "initialBackoff": "1s"},
        "onceKey": "scheduler.init",
    }
}


def test_keys_without_a_meaning_here_are_named_in_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Scheduler.from_config({"scheduler": {"mode": "memory", **NO_MEANING}})
    [record] = caplog.records
    text = record.getMessage()
    for key in ("reconcilerInterval", "publishRetry.attempts", "onceKey", "loadJobsConcurrency"):
        assert f"nats.{key}" in text
    assert text.count("nats.") == 11


def test_keys_of_another_mode_are_accepted_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    nats = {
        "streamName": "SCHEDULER",
        "subjectPrefix": "scheduler",
        "consumerName": "scheduler-worker",
        "jobBucket": "SCHEDULER_JOBS",
        "execBucket": "SCHEDULER_EXECUTIONS",
        "duplicatesWindow": "24h",
    }
    with caplog.at_level(logging.DEBUG, "natscron"):
        Scheduler.from_config({"mode": "memory", "nats": nats, "postgres": {"pollInterval": "1s"}})
    assert caplog.records == []


def test_the_keys_of_the_nats_mode_name_what_lies_on_the_server(caplog: pytest.LogCaptureFixture) -> None:
    nats = {"streamName": "WORK", "jobBucket": "MY_JOBS", "execBucket": "MY_RUNS", "consumerName": "w"}
    source = {"mode": "nats", "url": "nats://localhost:1", "nats": nats, "timer": "server"}
    scheduler = Scheduler.from_config({"scheduler": source}, handler=nothing)
    storage = scheduler._storage
    assert isinstance(storage, NATSStorage)
    names = storage.library
    assert (names.timer_stream, names.timer_prefix) == ("WORK", "work")
    assert (names.jobs_bucket, names.runs_bucket) == ("MY_JOBS", "MY_RUNS")
    assert options_of(scheduler).timer is Timer.SERVER
    [record] = caplog.records
    assert "nats.consumerName" in record.getMessage()
    with pytest.raises(ConfigError, match="the mapping: timer_stream: 'no name'"):
        Scheduler.from_config({**source, "nats": {"streamName": "no name"}})


def test_the_keys_of_the_postgres_mode_mean_what_they_mean_there() -> None:
    postgres: dict[str, Any] = {"pollInterval": "2s", "leaseDuration": "5m", "execRecordTTL": "720h"}
    source = {"url": "sqlite:///x.db", "postgres": {**postgres, "maxConcurrentExecutions": 32}}
    options = options_of(Scheduler.from_config(source))
    assert (options.concurrency, options.worker_lease_ms) == (32, 300_000)
    assert sql_options(source).poll_s == 2.0
    assert sql_options(source).runs_max_age_ms == 720 * 3_600_000
    # Go's durations may be numbers, in nanoseconds; 0 keeps records for ever.
    numbers = {"pollInterval": 500_000_000, "leaseDuration": 60_000_000_000, "execRecordTTL": 0}
    source = {"url": "sqlite:///x.db", "postgres": numbers}
    assert sql_options(source).poll_s == 0.5
    assert sql_options(source).runs_max_age_ms > 99 * 365 * 86_400_000
    assert options_of(Scheduler.from_config(source)).worker_lease_ms == 60_000


def test_the_arguments_of_the_scheduler_are_keys_too() -> None:
    options = options_of(
        Scheduler.from_config(
            {
                "mode": "memory",
                "name": "shop",
                "instance": "web-1",
                "worker": "false",
                "plan": True,
                "lease": "5s",
                "worker_lease": "20s",
                "grace": "1m",
                "stopTimeout": "2s",
                "strict": "TRUE",
            }
        )
    )
    assert (options.name, options.instance, options.worker, options.plan) == ("shop", "web-1", False, True)
    assert (options.lease_ms, options.worker_lease_ms, options.grace_ms) == (5_000, 20_000, 60_000)
    assert (options.stop_timeout_ms, options.strict) == (2_000, True)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"postgres": {"pollInterval": "soon"}}, "'soon' is wrong for postgres.pollInterval; give a duration"),
        ({"postgres": {"pollInterval": -1}}, "-1 is wrong for postgres.pollInterval"),
        ({"postgres": {"leaseDuration": True}}, "True is wrong for postgres.leaseDuration"),
        ({"postgres": {"maxConcurrentExecutions": "many"}}, "give a whole number"),
        ({"concurrency": 0}, "the mapping: concurrency must be a number from 1 to 10000; got 0"),
        ({"lease": 10}, "10 is wrong for lease; give a duration as text"),
        ({"lease": "1h"}, "the mapping: lease must be 500 to 60000 ms"),
        ({"strict": "maybe"}, "give true or false"),
        ({"mode": 7}, "7 is wrong for mode; give text"),
        ({"concurrency": 1, "postgres": {"maxConcurrentExecutions": 2}}, "say the same; remove one"),
        ({"workerLease": "20s", "postgres": {"leaseDuration": "20s"}}, "say the same; remove one"),
        ({"streamName": "x"}, "unknown key 'streamName'"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_its_rule(source: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Scheduler.from_config({"mode": "memory", **source})
    assert told in str(raised.value)
    assert str(raised.value).startswith("the mapping")


@pytest.mark.parametrize("poll", ["1ms", "1h"])
def test_a_value_that_the_storage_refuses_names_the_source(poll: str) -> None:
    with pytest.raises(ConfigError, match="the mapping: poll_s"):
        Scheduler.from_config({"url": "sqlite:///x.db", "postgres": {"pollInterval": poll}})


@pytest.mark.parametrize(
    "source",
    [
        {"url": f"oracle://me:{SECRET}@host/db"},
        {"url": f"host=localhost user=me password={SECRET} dbname=jobs"},
        {"url": f"me:{SECRET}@tcp(127.0.0.1:3306)/jobs"},
        {"url": f"postgresql://me:{SECRET}@host:port/db"},
        {"dsn": [SECRET]},
        {"url": {"password": SECRET}},
        {"url": f"sqlite:///x.db?password={SECRET}", "concurrency": 0},
    ],
)
def test_a_password_is_never_shown(source: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(ConfigError) as raised:
        Scheduler.from_config(source)
    error: BaseException | None = raised.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__
    assert SECRET not in caplog.text


# A handler may come later.


async def test_without_a_handler_it_starts_and_its_runs_fail_until_one_is_set() -> None:
    scheduler = Scheduler.from_config({"mode": "memory"})
    ended: asyncio.Queue[Run] = asyncio.Queue()
    scheduler.on("run_finished", ended.put_nowait)
    scheduler.on("run_failed", ended.put_nowait)
    async with scheduler, asyncio.timeout(20):
        await scheduler.add_job("a", SELDOM)
        await scheduler.trigger("a")
        run = await ended.get()
        assert (run.status, run.reason) == ("failed", "no_handler")
        [stored] = await scheduler.list_runs("a")
        assert (stored.status, stored.reason, stored.error) == ("failed", "no_handler", "no handler is set")

        scheduler.set_handler(lambda event: event.id)
        await scheduler.trigger("a")
        run = await ended.get()
        assert (run.status, run.result) == ("completed", '"a"')

        scheduler.set_handler(lambda _event: "the last one counts")
        await scheduler.trigger("a")
        assert (await ended.get()).result == '"the last one counts"'


async def test_a_run_for_a_named_handler_still_waits_for_a_process_that_has_it() -> None:
    scheduler = Scheduler.from_config({"mode": "memory", "worker_lease": "1s"})
    ended: asyncio.Queue[Run] = asyncio.Queue()
    scheduler.on("run_finished", ended.put_nowait)
    scheduler.on("run_failed", ended.put_nowait)
    async with scheduler, asyncio.timeout(20):
        await scheduler.add_job("named", SELDOM, handler="later")
        await scheduler.add_job("global", SELDOM)
        await scheduler.trigger("named")
        await scheduler.trigger("global")
        assert (await ended.get()).job == "global"
        scheduler.handler("later")(lambda _event: "here")
        run = await ended.get()
        assert (run.job, run.result) == ("named", '"here"')


# The module's calls.


async def test_what_is_asked_for_before_the_start_is_done_in_order() -> None:
    scheduler = Scheduler.from_config({"mode": "memory"}, handler=nothing)
    metadata = {"team": "a"}
    await scheduler.submit_job("first", SELDOM, metadata=metadata)
    await scheduler.ensure_job("second", SELDOM)
    await scheduler.ensure_job("first", every("2h"))
    await scheduler.submit_job("second", SELDOM)
    metadata["team"] = "changed by the caller"
    for call in (scheduler.get_job("first"), scheduler.list_jobs(), scheduler.remove_job("first")):
        with pytest.raises(SchedulerNotStartedError):
            await call
    async with scheduler:
        jobs = {job.id: job for job in await scheduler.list_jobs()}
        assert sorted(jobs) == ["first", "second"]
        assert jobs["first"].schedule == every("2h")
        assert list(scheduler.failures) == ["second"]
        assert isinstance(scheduler.failures["second"], JobAlreadyExistsError)


async def test_metadata_is_copied_when_it_is_asked_for() -> None:
    scheduler = Scheduler.from_config({"mode": "memory"}, handler=nothing)
    metadata = {"team": "a"}
    await scheduler.submit_job("a", SELDOM, metadata=metadata)
    metadata["team"] = "changed by the caller"
    async with scheduler:
        assert (await scheduler.get_job("a")).metadata == {"team": "a"}


async def test_the_first_mistake_fails_the_start_where_that_is_asked_for() -> None:
    scheduler = Scheduler.from_config({"mode": "memory", "strict": True}, handler=nothing)
    await scheduler.submit_job("a", SELDOM)
    await scheduler.submit_job("a", SELDOM)
    with pytest.raises(JobAlreadyExistsError):
        await scheduler.start()
    assert not scheduler.is_running


async def test_submit_is_add_under_another_name() -> None:
    async with Scheduler("memory://", nothing) as scheduler:
        await scheduler.submit_job("a", SELDOM, note="n")
        with pytest.raises(JobAlreadyExistsError):
            await scheduler.submit_job("a", SELDOM)
        with pytest.raises(JobAlreadyExistsError):
            await scheduler.add_job("a", SELDOM)
        assert (await scheduler.get_job("a")).note == "n"


async def test_a_connection_needs_a_sql_storage() -> None:
    async with Scheduler("memory://", nothing) as scheduler:
        with pytest.raises(ValidationError, match="connection= needs a SQL storage, and MemoryStorage is none"):
            await scheduler.submit_job("a", SELDOM, connection=object())


# The twin.


def test_the_twin_reads_the_same_configuration(tmp_path: Path) -> None:
    path = tmp_path / "app.json"
    path.write_text(json.dumps({"scheduler": {"mode": "memory", "concurrency": 3, "stop_timeout": "1s"}}))
    scheduler = natscron.sync.Scheduler.from_config(path)
    assert isinstance(scheduler, natscron.sync.Scheduler)
    assert options_of(scheduler).concurrency == 3
    with scheduler:
        scheduler.add_job("a", SELDOM)
        assert scheduler.get_job("a").id == "a"
    with pytest.raises(ModeNotConfiguredError):
        natscron.sync.Scheduler.from_config({})
