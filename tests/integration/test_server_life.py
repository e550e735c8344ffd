"""Starting, stopping, sharing a connection, failing: nothing stays behind and nothing goes on half."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from natscron.errors import (
    ConfigError,
    JobAlreadyExistsError,
    JobNotFoundError,
    NatscronError,
    StorageError,
    StorageUnavailableError,
)
from natscron.server import Server, ServerOptions
from natscron.testing.nats import NatsServer, free_ports

pytestmark = pytest.mark.anyio

TICK = {"subject": "tick", "schedule": {"every": "100ms"}}


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Client]:
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


def subscriptions(client: Client) -> int:
    return len(client._subs)


async def test_a_job_made_by_the_host_program_fires(nats_server: NatsServer, client: Client) -> None:
    ticks = await client.subscribe("tick")
    async with Server(ServerOptions(nats_url=nats_server.url)) as server:
        await server.create_job(TICK)
        message = await ticks.next_msg(timeout=5)
        headers = message.headers or {}
        assert headers["Nats-Cron-Job"] == "tick"
        assert headers["Nats-Cron-Run"] == headers["Nats-Msg-Id"] == message.data.decode()
        assert (server.is_running, server.is_leader) == (True, True)
    assert (server.is_running, server.is_leader) == (False, False)


async def test_jobs_as_bytes_and_as_mappings_and_errors_as_types(nats_server: NatsServer) -> None:
    async with Server(ServerOptions(nats_url=nats_server.url)) as server:
        await server.create_job(b'{"subject":"a","schedule":{"every":"1h"}}')
        with pytest.raises(JobAlreadyExistsError):
            await server.create_job({"subject": "a", "schedule": {"every": "1h"}})
        await server.update_job({"subject": "a", "note": "n"})
        assert (await server.get_job("a"))["note"] == "n"
        await server.pause_job("a")
        assert (await server.get_job({"subject": "a"}))["state"] == "paused"
        await server.resume_job(b'{"subject":"a"}')
        await server.put_job({"subject": "b", "schedule": {"cron": "0 9 * * *"}})
        assert [one["subject"] for one in await server.list_jobs()] == ["a", "b"]
        assert [one["subject"] for one in await server.list_jobs({"pattern": "b"})] == ["b"]
        await server.delete_job("b")
        with pytest.raises(JobNotFoundError):
            await server.get_job("b")
        assert await server.delete_jobs(">") == {"count": 1, "deleted": ["a"]}


async def test_a_stopped_server_leaves_nothing_on_a_shared_connection(client: Client) -> None:
    ticks = await client.subscribe("tick")
    before = subscriptions(client), len(asyncio.all_tasks())
    callbacks = client._disconnected_cb, client._reconnected_cb, client._closed_cb
    for _ in range(2):
        server = Server(ServerOptions(connection=client))
        await server.start()
        assert subscriptions(client) > before[0]
        await server.put_job(TICK)
        await ticks.next_msg(timeout=5)
        await server.stop()
        assert client.is_connected
        assert subscriptions(client) == before[0]
        assert (client._disconnected_cb, client._reconnected_cb, client._closed_cb) == callbacks
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) <= before[1]
    # Also a later write wakes nobody up.
    while ticks.pending_msgs:
        await ticks.next_msg()
    key = await client.jetstream().key_value("nats-cron-jobs")
    await key.put("tick", json.dumps(TICK).encode())
    with pytest.raises(nats.errors.TimeoutError):
        await ticks.next_msg(timeout=0.5)


async def test_the_leader_has_a_connection_of_its_own(nats_server: NatsServer) -> None:
    own = await nats.connect(nats_server.url, no_echo=True)
    ticks = await own.subscribe("tick")
    async with Server(ServerOptions(connection=own)) as server:
        await server.put_job(TICK)
        # A client without echo does not hear itself; that it hears this shows another connection published it.
        await ticks.next_msg(timeout=5)
    await own.close()


async def test_two_services_on_one_account_keep_apart(nats_server: NatsServer, client: Client) -> None:
    first = ServerOptions(nats_url=nats_server.url, name="one")
    second = ServerOptions(nats_url=nats_server.url, name="two")
    async with Server(first) as one, Server(second) as two:
        ticks = await client.subscribe("*.tick")
        await client.flush()
        for name in ("one", "two"):
            job = json.dumps({"subject": f"{name}.tick", "schedule": {"every": "100ms"}}).encode()
            for _ in range(3):
                await client.request(f"{name}.jobs.put", job, timeout=5)
        seen: set[str] = set()
        async with asyncio.timeout(10):
            while seen != {"one.tick", "two.tick"}:
                seen.add((await ticks.next_msg(timeout=10)).subject)
        assert (one.is_leader, two.is_leader) == (True, True)
        assert [job["subject"] for job in await one.list_jobs()] == ["one.tick"]
        assert [job["subject"] for job in await two.list_jobs()] == ["two.tick"]


async def test_stop_is_idempotent_and_start_may_follow(nats_server: NatsServer) -> None:
    server = Server(ServerOptions(nats_url=nats_server.url))
    await server.stop()
    await server.start()
    with pytest.raises(NatscronError, match="already running"):
        await server.start()
    await asyncio.gather(server.stop(), server.stop())
    with pytest.raises(StorageUnavailableError, match="not running"):
        await server.list_jobs()
    await server.start()
    assert await server.list_jobs() == []
    await server.stop()
    await server.wait()


async def test_a_start_without_nats_ends_when_it_was_told_to_and_leaves_nothing(client: Client) -> None:
    (port,) = free_ports(1)
    tasks = len(asyncio.all_tasks())
    server = Server(ServerOptions(nats_url=f"nats://user:secret@127.0.0.1:{port}", connect_timeout_s=0.5))
    with pytest.raises(StorageUnavailableError, match="within") as caught:
        await server.start()
    assert "secret" not in str(caught.value)
    assert not server.is_running
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == tasks
    assert client.is_connected


async def test_a_cancelled_start_leaves_nothing_on_the_shared_connection(client: Client) -> None:
    before = subscriptions(client)
    for turns in range(0, 300, 10):
        server = Server(ServerOptions(connection=client))
        starting = asyncio.create_task(server.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        was_under_way = starting.cancel()
        await asyncio.wait([starting])
        assert (starting.cancelled(), server.is_running) == (was_under_way, not was_under_way)
        await server.stop()
        assert subscriptions(client) == before
    await client.flush(timeout=2)


async def test_a_server_started_before_nats_begins_when_nats_comes(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    server = Server(ServerOptions(nats_url=f"nats://127.0.0.1:{port}"))
    starting = asyncio.create_task(server.start())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await asyncio.shield(starting)
    with NatsServer(tmp_path / "late", port=port):
        async with asyncio.timeout(10):
            await starting
        assert await server.list_jobs() == []
        await server.stop()


async def test_nats_without_jetstream_is_waited_for_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with NatsServer(tmp_path / "plain", jetstream=False) as plain:
        server = Server(ServerOptions(nats_url=plain.url, connect_timeout_s=1.5))
        with pytest.raises(StorageUnavailableError):
            await server.start()
    assert "not ready" in caplog.text


async def test_a_shared_connection_that_its_owner_closes_ends_the_server(nats_server: NatsServer) -> None:
    own = await nats.connect(nats_server.url)
    server = Server(ServerOptions(connection=own))
    await server.start()
    await own.close()
    with pytest.raises(StorageUnavailableError, match="closed for good"):
        async with asyncio.timeout(10):
            await server.wait()
    assert not server.is_running


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"lease": "soon"}, "lease"),
        ({"nats_url": "http://x"}, "nats_url"),
        ({"name": "a b"}, "name"),
        ({"deny": ["a.>.b"]}, "deny"),
        ({"connection": object()}, "connection"),
        ({"connect_timeout_s": 0}, "connect_timeout_s"),
    ],
)
def test_bad_options_raise_at_once_and_name_themselves(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ServerOptions(**options)


async def test_nats_that_goes_away_and_comes_back_is_waited_for(nats_server: NatsServer) -> None:
    async with Server(ServerOptions(nats_url=nats_server.url)) as server:
        await server.create_job(TICK)
        nats_server.kill()
        with pytest.raises(StorageError):
            await server.get_job("tick")
        with pytest.raises(StorageError):
            await server.create_job({"subject": "b", "schedule": {"every": "1h"}})
        nats_server.launch()
        nats_server.wait_ready()
        client = await nats.connect(nats_server.url)
        ticks = await client.subscribe("tick")
        await ticks.next_msg(timeout=10)
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(StorageUnavailableError):
                    assert (await server.get_job("tick"))["state"] == "active"
                    break
        assert server.is_running
        await client.close()


def test_the_environment_gives_options_and_secrets_stay_hidden() -> None:
    options = ServerOptions.from_env(
        {"NATS_URL": "nats://u:pw@h:4222", "INSTANCE_ID": "i7", "NATSCRON_LEASE__DURATION": "5s"}
    )
    assert options.effective.service.instance_id == "i7"
    assert options.effective.lease.duration_ms == 5000
    assert "pw" not in repr(options)


# The process.


async def start_process(url: str) -> asyncio.subprocess.Process:
    code = (
        "import asyncio, sys\n"
        "from natscron.config import load_settings\n"
        "from natscron.server.run import run_server\n"
        "settings = load_settings(overrides={'nats.url': sys.argv[1], 'service.instance_id': 'p1',"
        " 'log.level': 'debug'})\n"
        "sys.exit(asyncio.run(run_server(settings)))\n"
    )
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-c",
        code,
        url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def line_with(process: asyncio.subprocess.Process, text: str) -> dict[str, Any]:
    assert process.stdout is not None
    async with asyncio.timeout(15):
        while True:
            line = await process.stdout.readline()
            assert line, "the process ended before it said so"
            record: dict[str, Any] = json.loads(line)
            if text in record["msg"]:
                return record


@pytest.fixture
async def process(nats_server: NatsServer) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await start_process(nats_server.url.replace("nats://", "nats://user:s3cret@"))
    yield process
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def test_sigterm_ends_the_process_in_order_with_code_0(
    process: asyncio.subprocess.Process, client: Client
) -> None:
    ticks = await client.subscribe("tick")
    started = await line_with(process, "started")
    assert (started["level"], started["instance_id"]) == ("info", "p1")
    job = json.dumps({**TICK, "subject": "tick"}).encode()
    assert b"created" in (await client.request("nats-cron.jobs.create", job, timeout=5)).data
    await ticks.next_msg(timeout=5)
    process.send_signal(signal.SIGTERM)
    out, err = await process.communicate()
    assert process.returncode == 0, err
    assert b"s3cret" not in out
    lines = [json.loads(line) for line in out.splitlines()]
    assert all(list(line)[:3] == ["level", "time", "msg"] for line in lines)
    assert lines[-1]["msg"] == "NATS Cron server stopped"
    # The lease was released, so the next one leads at once.
    async with Server(ServerOptions(connection=client)):
        await ticks.next_msg(timeout=1)


async def test_a_signal_while_nats_is_waited_for_ends_the_process_with_code_0() -> None:
    (port,) = free_ports(1)
    process = await start_process(f"nats://127.0.0.1:{port}")
    await line_with(process, "starting")
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 0, err


async def test_a_second_signal_ends_the_process_at_once(process: asyncio.subprocess.Process, client: Client) -> None:
    await line_with(process, "started")
    # A request that never ends keeps the first stop busy.
    never = await client.subscribe("never")
    job = {"subject": "never", "schedule": {"every": "1h"}, "delivery": "request", "timeout": "60s"}
    await client.request("nats-cron.jobs.create", json.dumps(job).encode(), timeout=5)
    await client.request("nats-cron.jobs.trigger", b'{"subject":"never"}', timeout=5)
    await never.next_msg(timeout=5)
    process.send_signal(signal.SIGTERM)
    await line_with(process, "Shutting down")
    process.send_signal(signal.SIGTERM)
    _, err = await process.communicate()
    assert process.returncode == 1, err
    assert b"second signal" in err


async def test_a_configuration_that_cannot_work_ends_the_process_with_its_reason(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    bad = tmp_path / "seed"
    bad.write_text("SUnothing")
    code = (
        "import asyncio, sys\n"
        "from natscron.config import load_settings\n"
        "from natscron.server.run import run_server\n"
        "settings = load_settings(overrides={'nats.url': sys.argv[1], 'nats.creds': sys.argv[2]})\n"
        "sys.exit(asyncio.run(run_server(settings)))\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        f"nats://127.0.0.1:{port}",
        str(bad),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ},
    )
    out, err = await process.communicate()
    assert process.returncode == 1
    assert b"creds" in err
    assert json.loads(out.splitlines()[-1])["level"] == "error"


async def test_waiting_for_a_server_that_does_not_run_ends_at_once() -> None:
    async with asyncio.timeout(1):
        await Server().wait()
