"""The NATS configuration in docs/permissions.md is enough for each kind of user, and refuses what it says."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from natscron.server import Server, ServerOptions
from natscron.server.embedded import find_nats_server

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "permissions.md"


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    """A NATS server with the documented configuration."""
    [configuration] = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    # JetStream's folder is not part of the permissions.
    text = f'{configuration}\njetstream {{ store_dir: "{tmp_path / "store"}" }}\n'
    (tmp_path / "nats.conf").write_text(text)
    process = await asyncio.create_subprocess_exec(
        str(find_nats_server()), "-c", str(tmp_path / "nats.conf"), "-a", "127.0.0.1", "-p", "-1",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    drain = None
    try:
        seen = ""
        async with asyncio.timeout(10):
            while "Server is ready" not in seen:
                line = await process.stderr.readline()
                assert line, seen
                seen += line.decode()
        drain = asyncio.create_task(process.stderr.read())
        [port] = re.findall(r"Listening for client connections on 127\.0\.0\.1:(\d+)", seen)
        yield f"127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        if drain is not None:
            await drain


class Complaints:
    """What NATS told a client that it may not do."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    async def hear(self, error: Exception) -> None:
        self.heard.append(str(error))


async def connect(address: str, user: str, complaints: Complaints) -> Client:
    return await nats.connect(f"nats://{user}:{user}@{address}", error_cb=complaints.hear)


async def test_the_documented_permissions_are_enough(address: str, caplog: pytest.LogCaptureFixture) -> None:
    complaints = Complaints()
    async with (
        await connect(address, "worker", complaints) as worker,
        await connect(address, "operator", complaints) as operator,
        await connect(address, "viewer", complaints) as viewer,
    ):
        await use(address, worker, operator, viewer)
    assert complaints.heard == []
    assert "ermissions violation" not in caplog.text


async def use(address: str, worker: Client, operator: Client, viewer: Client) -> None:
    done = asyncio.Event()

    async def work(message: Msg) -> None:
        await message.respond(b"done")
        done.set()

    await worker.subscribe("app.work", queue="workers", cb=work)
    await worker.flush()
    records = await operator.subscribe("nats-cron.log.app.>")

    url = f"nats://natscron:service@{address}"
    async with Server(ServerOptions(nats_url=url)), Server(ServerOptions(nats_url=url, instance_id="second")):
        job = {"subject": "app.work", "schedule": {"every": "200ms"}, "delivery": "request"}
        created = await operator.request("nats-cron.jobs.create", json.dumps(job).encode(), timeout=10)
        assert json.loads(created.data)["status"] == "created"
        async with asyncio.timeout(15):
            await done.wait()
        record = json.loads((await records.next_msg(timeout=15)).data)
        assert (record["job"], record["status"]) == ("app.work", "completed")
        for subject in ("jobs.list", "runs.list", "calendars.list", "backfills.list", "cluster.info", "status"):
            reply = await viewer.request(f"nats-cron.{subject}", b"", timeout=10)
            assert "Nats-Service-Error" not in (reply.headers or {}), subject
        closed = await operator.request("nats-cron.calendars.put", b'{"name": "x", "dates": ["12-25"]}', timeout=10)
        assert "Nats-Service-Error" not in (closed.headers or {})
        for endpoint in ("jobs.explain", "jobs.skip", "jobs.pause", "jobs.resume", "jobs.trigger", "jobs.delete"):
            reply = await operator.request(f"nats-cron.{endpoint}", b'{"subject": "app.work"}', timeout=10)
            assert "Nats-Service-Error" not in (reply.headers or {}), endpoint


async def test_who_may_look_may_not_change(address: str) -> None:
    complaints = Complaints()
    async with (
        await connect(address, "viewer", complaints) as viewer,
        Server(ServerOptions(nats_url=f"nats://natscron:service@{address}")) as server,
    ):
        await viewer.publish("nats-cron.jobs.create", b'{"subject": "app.x", "schedule": {"every": "1h"}}')
        # The complaint comes before the answer to the flush.
        await viewer.flush()
        assert await server.list_jobs() == []
    [complaint] = complaints.heard
    assert "nats-cron.jobs.create" in complaint
