"""Rows that the Go versions wrote into their bucket are read and fire; those that nobody can honour stop nobody."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any, Final

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import KeyValueConfig
from nats.js.kv import KeyValue

from natscron.server import Server, ServerOptions
from natscron.testing.nats import NatsServer

pytestmark = pytest.mark.anyio

_NEVER: Final = "0001-01-01T00:00:00Z"
_ULID: Final = re.compile(rb"[0-9A-HJKMNP-TV-Z]{26}")


def old_row(subject: str, schedule: dict[str, str], data: str) -> bytes:
    """A row as v0.1.1 writes it, state and all."""
    row = {
        "target": {"subject": subject},
        "payload": {"type": "json", "data": data},
        "schedule": schedule,
        "last_run": _NEVER,
        "next_run": "2026-11-20T09:19:23.716122941Z",
    }
    return json.dumps(row, separators=(",", ":")).encode()


def row(subject: str, schedule: dict[str, str]) -> bytes:
    """A row as v0.2.0 and v0.2.1 write it."""
    return json.dumps({"subject": subject, "schedule": schedule}, separators=(",", ":")).encode()


FIRING: Final[dict[str, tuple[bytes, bytes | None]]] = {
    "go.v011.every": (old_row("go.v011.every", {"every": "300ms"}, '{"x":1}'), b'{"x":1}'),
    "go.v011.empty": (old_row("go.v011.empty", {"every": "300ms"}, ""), None),
    "go.v011.each": (old_row("go.v011.each", {"cron": "@every 2s"}, "text"), b"text"),
    "go.v020.every": (row("go.v020.every", {"every": "0.5s"}), None),
    "go.v021.empty_cron": (row("go.v021.empty_cron", {"every": "1s", "cron": ""}), None),
    "go.v021.each": (row("go.v021.each", {"cron": "@every 2s"}), None),
}
"""Key, row, and the body that arrives; None: a ULID."""

RESTING: Final = {
    "go.hourly": row("go.hourly", {"cron": "@hourly"}),
    "go.zone": row("go.zone", {"cron": "CRON_TZ=America/New_York 0 9 * * *"}),
    "go.odd": row("go.odd", {"cron": "1,,2 * * * *"}),
    "go.old.daily": old_row("go.old.daily", {"cron": "0 9 * * MON"}, "x"),
}
"""Rows that are due too seldom for a test."""

UNREADABLE: Final = {
    "bad.text": b"not json",
    "bad.utf8": b'{"subject":"bad.utf8\xff"}',
    "bad.empty": b"",
    "bad.array": b"[]",
    "bad.no.subject": b'{"schedule":{"every":"1s"}}',
    "bad.no.schedule": b'{"subject":"bad.no.schedule"}',
    "bad.both": row("bad.both", {"every": "1s", "cron": "* * * * *"}),
    "bad.zero": row("bad.zero", {"every": "0s"}),
    "bad.negative": row("bad.negative", {"every": "-1s"}),
    "bad.prefix": row("bad.prefix", {"cron": "TZ=UTC"}),
    "bad.zone": row("bad.zone", {"cron": "CRON_TZ=Mars/Base * * * * *"}),
    "bad.cron": row("bad.cron", {"cron": "60 * * * *"}),
    "bad.deep": b'{"subject":"bad.deep","x":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "bad.number": b'{"subject":"bad.number","schedule":{"every":1e400}}',
    "bad.other": row("go.v020.every", {"every": "300ms"}),
    "nats-cron.jobs.create": row("nats-cron.jobs.create", {"every": "300ms"}),
}


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


async def go_bucket(client: Client, name: str = "nats-cron-jobs") -> KeyValue:
    return await client.jetstream().create_key_value(KeyValueConfig(bucket=name, history=1))


async def heard(client: Client, wanted: set[str]) -> tuple[dict[str, Msg], asyncio.Event]:
    found: dict[str, Msg] = {}
    complete = asyncio.Event()

    async def take(message: Msg) -> None:
        found.setdefault(message.subject, message)
        if wanted <= set(found):
            complete.set()

    await client.subscribe("go.>", cb=take)
    await client.flush()
    return found, complete


def check(found: dict[str, Msg]) -> None:
    for subject, (_, body) in FIRING.items():
        message = found[subject]
        if body is None:
            assert _ULID.fullmatch(message.data), message.data
        else:
            assert message.data == body
        assert (message.headers or {})["Nats-Cron-Job"] == subject


@pytest.mark.parametrize("before", [True, False], ids=["already there", "written while it runs"])
async def test_rows_of_every_go_version_fire_among_rows_that_nobody_can_read(
    nats_server: NatsServer, client: Client, *, before: bool
) -> None:
    bucket = await go_bucket(client)
    found, complete = await heard(client, set(FIRING))
    api = await client.subscribe("nats-cron.jobs.create")
    rows = {key: value for key, (value, _) in FIRING.items()} | RESTING | UNREADABLE

    async def write() -> None:
        for key, value in rows.items():
            await bucket.put(key, value)

    if before:
        await write()
    async with Server(ServerOptions(nats_url=nats_server.url)) as server:
        if not before:
            await write()
        async with asyncio.timeout(10):
            await complete.wait()
        check(found)
        shown = {job["subject"]: job for job in await server.list_jobs()}
        assert {key for key, job in shown.items() if job["state"] == "invalid"} == set(UNREADABLE)
        assert all(job["invalid"] and job["next_run"] is None for job in shown.values() if job["state"] == "invalid")
        assert all(shown[key]["next_run"] for key in [*FIRING, *RESTING])
        assert "go.v020.every" in shown["bad.other"]["invalid"]
        assert api.pending_msgs == 0
        assert (await server.status())["jobs"] == len(rows)
        # Seldom ones are known to be sound: they run when they are asked to.
        _, all_ran = await heard(client, set(RESTING))
        for subject in RESTING:
            await server.trigger_job(subject)
        async with asyncio.timeout(10):
            await all_ran.wait()
        # An unreadable row can be replaced and removed.
        await server.put_job({"subject": "bad.text", "schedule": {"every": "1h"}})
        assert (await server.get_job("bad.text"))["state"] == "active"
        await server.delete_job("bad.other")
        assert (await server.get_job("go.v020.every"))["state"] == "active"
    for key, value in RESTING.items():
        assert (await bucket.get(key)).value == value


async def test_the_bucket_of_the_first_go_versions_can_be_used(nats_server: NatsServer, client: Client) -> None:
    bucket = await go_bucket(client, "scheduler_jobs")
    found, complete = await heard(client, {"go.v011.every"})
    await bucket.put("go.v011.every", FIRING["go.v011.every"][0])
    async with Server(ServerOptions(nats_url=nats_server.url, jobs_bucket="scheduler_jobs")):
        async with asyncio.timeout(10):
            await complete.wait()
    assert found["go.v011.every"].data == b'{"x":1}'


async def test_a_go_writers_edit_and_deletion_take_effect(nats_server: NatsServer, client: Client) -> None:
    bucket = await go_bucket(client)
    await bucket.put("go.a", row("go.a", {"every": "1h"}))
    found, complete = await heard(client, {"go.a", "go.b"})
    async with Server(ServerOptions(nats_url=nats_server.url)) as server:
        await server.create_job({"subject": "go.b", "schedule": {"every": "1h"}, "payload": "kept until Go writes"})
        for subject in ("go.a", "go.b"):
            await bucket.put(subject, row(subject, {"every": "200ms"}))
        async with asyncio.timeout(10):
            await complete.wait()
        assert _ULID.fullmatch(found["go.b"].data)
        await bucket.delete("go.a")
        jobs: list[dict[str, Any]] = await server.list_jobs()
        assert [job["subject"] for job in jobs] == ["go.b"]
