"""The commands for skips, backfills and calendars, against a real server."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.integration.test_cli import Ended, one_after_another

from natscron.server import Server, ServerOptions
from natscron.testing.nats import NatsServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def service(shared_nats: NatsServer) -> AsyncIterator[tuple[str, ...]]:
    """A server of ours that leads; the flags with which to reach it."""
    async with Server(ServerOptions(nats_url=shared_nats.url, name="cli-policies", instance_id="one")) as server:
        while not server.is_leader:  # noqa: ASYNC110 - the server tells no one when it begins to lead
            await asyncio.sleep(0.01)
        await server.delete_jobs(">")
        yield "--server", shared_nats.url, "--name", "cli-policies"


async def commands(service: tuple[str, ...], *lines: tuple[str, ...]) -> list[Ended]:
    return await one_after_another(*((*service, *line) for line in lines))


async def test_calendars_skips_and_backfills_are_a_commands_work(service: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "nights.json").write_text('{"weekly": [{"start": "22:00", "end": "06:00"}]}')
    (
        put,
        nights,
        add,
        shown,
        listed,
        used,
        nexts,
        skip,
        more,
        back,
        fill,
        going,
        update,
        freed,
        gone,
        got,
    ) = await commands(
        service,
        ("calendar", "put", "closed", "--dates", "12-25,12-26", "--weekly", "SAT,SUN", "--tz", "Europe/Berlin"),
        ("calendar", "put", "nights", str(tmp_path / "nights.json"), "--json"),
        (
            *("add", "r.daily", "0 9 * * *", "--except-calendar", "closed", "--jitter", "5m", "--priority", "2"),
            *("--reports", "--overlap", "buffer_one", "--pause-after-failures", "3", "--retry-never", "4*"),
        ),
        ("show", "r.daily"),
        ("calendar", "list"),
        ("calendar", "delete", "closed"),
        ("next", "r.daily", "-n", "3"),
        ("skip", "r.daily", "2", "--json"),
        ("skip", "r.daily", "--json"),
        ("skip", "r.daily", "0"),
        ("backfill", "start", "r.daily", "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-31T00:00:00Z", "--dry-run"),
        ("backfill", "list"),
        ("update", "r.daily", "0 9 * * *", "--jitter", "1m"),
        ("calendar", "delete", "closed", "nights"),
        ("calendar", "get", "closed"),
        ("get", "r.daily"),
    )
    assert (put.code, put.out) == (0, "Calendar 'closed' created\n")
    assert json.loads(nights.out)["status"] == "created"
    assert (add.code, add.err.count("Warning")) == (0, 1), add
    assert "retry has no effect with one attempt" in add.err
    assert "In words:" in shown.out
    assert "closed" in shown.out
    assert "buffer_one" in shown.out
    assert "2 dates, 1 weekly window [Europe/Berlin]" in listed.out
    assert (used.code, "'r.daily'" in used.err) == (1, True)
    assert nexts.out.count("09:00:00") == 3
    assert json.loads(skip.out)["count"] == 2
    assert json.loads(more.out)["skipped"][0] == json.loads(skip.out)["next_run"] or json.loads(more.out)["count"] == 1
    assert back.out.startswith("Job 'r.daily' skips no run\n")
    assert "slot(s) from 2026-01-01 09:00:00 UTC" in fill.out
    assert going.out == "No backfill is going on\n"
    assert (update.code, freed.code) == (0, 0)
    assert gone.code == 1
    assert json.loads(got.out)["schedule"] == {"cron": "0 9 * * *", "jitter": "1m"}


async def test_a_backfill_is_started_watched_and_over(service: tuple[str, ...]) -> None:
    ranged = ("--from", "2026-01-01T00:00:00Z", "--to", "2026-01-01T05:00:00Z", "--yes")
    _, watched, again, runs, slow, listed, cancelled, wrong, future, huge = await commands(
        service,
        ("add", "r.hourly", "0 * * * *", "--delivery", "core"),
        ("backfill", "start", "r.hourly", *ranged, "--rate", "100/s", "--key", "k", "--watch"),
        ("backfill", "start", "r.hourly", *ranged, "--rate", "100/s", "--key", "k", "--json"),
        ("runs", "r.hourly", "--json"),
        ("backfill", "start", "r.hourly", *ranged, "--rate", "6/m", "--key", "slow", "--json"),
        ("backfill", "list", "--json"),
        ("backfill", "cancel", "NONE"),
        ("backfill", "start", "r.hourly", *ranged, "--rate", "fast"),
        ("backfill", "start", "r.hourly", "--from", "1h", "--to", "2199-01-01T00:00:00Z", "--yes"),
        ("backfill", "start", "none", *ranged),
    )
    assert watched.code == 0, watched
    assert watched.out.endswith("backfill_done: 6 of 6 slots\n")
    assert json.loads(again.out)["count"] == 6
    assert [one["trigger"] for one in json.loads(runs.out)] == ["backfill"] * 7
    assert json.loads(slow.out)["status"] == "started"
    assert listed.code == 0
    for ended, said in ((cancelled, "no backfill"), (wrong, "rate"), (future, "future"), (huge, "no job")):
        assert (ended.code, said in ended.err) == (1, True), ended
    [row] = json.loads(listed.out)
    assert row["job"] == "r.hourly"
    assert (await commands(service, ("backfill", "cancel", row["id"])))[0].code == 0
