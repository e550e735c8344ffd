"""Everything that speaks to NATS does so over TLS and WebSocket too, and trusts nobody it was not told to trust."""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.certificates import authority, server_tls

from natscron.cli.main import cli, run
from natscron.errors import StorageUnavailableError
from natscron.messages import MessageScheduler
from natscron.schedule import every
from natscron.scheduler import Scheduler
from natscron.storage.nats import ConnectOptions, NATSStorage
from natscron.testing.nats import NatsCluster, NatsServer, free_ports
from natscron.testing.process import ServiceProcess
from natscron.wire.connection import Connection

pytestmark = [
    pytest.mark.anyio,
    # The client gives aiohttp a plain number where it now wants an object.
    pytest.mark.filterwarnings("ignore:parameter 'timeout':DeprecationWarning"),
]


class Site(NamedTuple):
    """A server that speaks TLS only, by scheme; the authority it has its certificate from, and another."""

    urls: dict[str, str]
    trusted: str
    stranger: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("secure")
    trusted, stranger = authority(folder, "trusted"), authority(folder, "stranger")
    tls = server_tls(folder, trusted)
    (port,) = free_ports(1)
    with NatsServer(folder / "nats", config=f"{tls}\nwebsocket {{ listen: 127.0.0.1:{port}, {tls} }}") as server:
        urls = {"tls": server.url.replace("nats:", "tls:"), "wss": f"wss://127.0.0.1:{port}"}
        yield Site(urls, str(trusted), str(stranger))


async def runs_a_job(storage: NATSStorage, job: str) -> None:
    called = asyncio.Event()

    async def handler(_: object) -> None:
        called.set()

    async with Scheduler(storage, handler) as scheduler:
        await scheduler.ensure_job(job, every("200ms"))
        async with asyncio.timeout(10):
            await called.wait()
        await scheduler.remove_job(job)
    await storage.close()


@pytest.mark.parametrize("scheme", ["tls", "wss"])
async def test_a_scheduler_runs_its_jobs_over_tls(site: Site, scheme: str) -> None:
    await runs_a_job(NATSStorage(ConnectOptions(url=site.urls[scheme], tls_ca=site.trusted)), scheme)


async def test_a_certificate_that_is_not_trusted_is_named_as_the_reason(site: Site) -> None:
    """Neither one of another authority, nor one that the system does not know."""
    url = site.urls["tls"]
    storage = NATSStorage(ConnectOptions(url=url, tls_ca=site.stranger), connect_timeout_s=0.3)
    with pytest.raises(StorageUnavailableError, match="certificate verify failed"):
        await Scheduler(storage, worker=False).start()
    with pytest.raises(StorageUnavailableError, match="certificate verify failed"):
        await Connection.connect(ConnectOptions(url=url), timeout_s=0.3)


@pytest.mark.parametrize("scheme", ["tls", "wss"])
async def test_a_command_names_it_too(site: Site, scheme: str) -> None:
    """In a process of its own: where a handshake fails, aiohttp leaves what it had opened to the garbage collector."""
    words = ("message", "list", "ANY", "--server", site.urls[scheme], "--tls-ca", site.stranger)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "natscron", *words, stdout=pipe, stderr=pipe, env={"PATH": os.environ["PATH"]}
    )
    out, err = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert b"certificate verify failed" in err


async def test_a_certificate_for_another_host_is_not_trusted(site: Site) -> None:
    url = site.urls["tls"].replace("127.0.0.1", "localhost")
    options = ConnectOptions(url=url, tls_ca=site.trusted)
    with pytest.raises(StorageUnavailableError, match="not valid for 'localhost'"):
        await Connection.connect(options, timeout_s=0.3)


@pytest.mark.parametrize("scheme", ["tls", "wss"])
async def test_the_service_and_its_commands_work_over_tls(
    site: Site, scheme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", site.urls[scheme])
    service = ServiceProcess(tmp_path, scheme, site.urls[scheme], {"NATS__TLS_CA": site.trusted})
    service.start()
    try:
        await service.says("leading")
        client = await Connection.connect(ConnectOptions(url=site.urls["tls"], tls_ca=site.trusted))
        ticked = asyncio.Event()
        await client.subscribe(f"tick.{scheme}", lambda _: ticked.set())
        await client.flush()

        def command(*words: str) -> int:
            return run(cli, [*words, "--tls-ca", site.trusted])

        assert await asyncio.to_thread(command, "add", f"tick.{scheme}", "200ms") == 0
        async with asyncio.timeout(10):
            await ticked.wait()
        capsys.readouterr()
        assert await asyncio.to_thread(command, "list", "--json") == 0
        assert f"tick.{scheme}" in [job["subject"] for job in json.loads(capsys.readouterr().out)]
        await client.close()
        service.terminate()
        assert await service.ended() == 0
    finally:
        service.kill()


@pytest.mark.parametrize("scheme", ["tls", "wss"])
def test_message_schedules_are_laid_down_and_listed_over_tls(
    site: Site, scheme: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", site.urls[scheme])

    def command(*words: str) -> tuple[int, str, str]:
        code = run(cli, ["message", *words, "--prefix", f"{scheme}.sched", "--tls-ca", site.trusted])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    assert command("setup", scheme.upper(), f"{scheme}.t.>")[0] == 0
    code, out, err = command("at", f"{scheme}.t.orders", "in 1h", "hello", "--id", "one")
    assert code == 0, err
    code, out, err = command("list", scheme.upper(), "--json")
    assert code == 0, err
    assert [schedule["id"] for schedule in json.loads(out)] == ["one"]


async def test_message_schedules_take_options_with_an_authority(site: Site) -> None:
    async with MessageScheduler(ConnectOptions(url=site.urls["tls"], tls_ca=site.trusted), "OPTIONS") as schedules:
        await schedules.ensure_stream(["options.>"])
        handle = await schedules.at("options.x", "in 1h", b"x")
        assert [one.id async for one in schedules.list()] == [handle.id]


async def test_streams_keep_three_replicas_over_tls_and_over_websocket(tmp_path: Path) -> None:
    trusted = authority(tmp_path, "trusted")
    web = 'websocket { listen: "127.0.0.1:-1", no_tls: true }'
    with NatsCluster(tmp_path / "nats", config=f"{server_tls(tmp_path, trusted)}\n{web}\n") as cluster:
        secure = ConnectOptions(url=cluster.url.replace("nats:", "tls:"), tls_ca=str(trusted))
        plain = ConnectOptions(url=",".join([await web_url(server) for server in cluster.servers]))
        for options in (secure, plain):
            await runs_a_job(NATSStorage(options), "a")
            connection = await Connection.connect(options)
            for stream in ("KV_SCHEDULER_JOBS", "KV_SCHEDULER_STATE", "KV_SCHEDULER_EXECUTIONS", "SCHEDULER_LOG"):
                assert (await connection.js_request(f"STREAM.INFO.{stream}"))["config"]["num_replicas"] == 3
            await connection.close()


async def web_url(server: NatsServer) -> str:
    """Where it listens for WebSockets, on a port that it chose itself and writes down."""
    async with asyncio.timeout(10):
        while not (found := list((server.folder / "ports").glob("*.ports"))):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
    (ports,) = found
    return f"ws://127.0.0.1:{json.loads(ports.read_text())['websocket'][0].rpartition(':')[2]}"
