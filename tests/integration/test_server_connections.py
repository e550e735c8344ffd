"""The ways in which a server process meets its NATS: late, gone for long, over WebSocket, behind credentials."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nats
import nkeys
import pytest
from nats.aio.client import Client

from natscron.testing.nats import NatsServer, free_ports
from natscron.testing.process import ServiceProcess

pytestmark = pytest.mark.anyio

TICK = b'{"subject":"tick","schedule":{"every":"200ms"}}'


async def cli(*args: str) -> tuple[int, str, str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("NATS")}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "natscron", *args, stdout=pipe, stderr=pipe, env=env
    )
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


@contextlib.asynccontextmanager
async def connected(url: str, **options: str) -> AsyncIterator[Client]:
    client = await nats.connect(url, **options)
    try:
        yield client
    finally:
        await client.close()


@contextlib.contextmanager
def running(service: ServiceProcess) -> Iterator[ServiceProcess]:
    service.start()
    try:
        yield service
    finally:
        service.kill()


def waiting_lines(service: ServiceProcess) -> int:
    return sum(json.loads(line)["level"] in {"warn", "error"} for line in service.log.splitlines())


async def test_a_process_started_before_nats_says_so_at_a_bounded_rate_and_begins_when_nats_comes(
    tmp_path: Path,
) -> None:
    (port,) = free_ports(1)
    late = NatsServer(tmp_path / "nats", port=port)
    with running(ServiceProcess(tmp_path, "early", late.url)) as service:
        await service.says("NATS")
        # Nothing tells how often it complains but time.
        await asyncio.sleep(2)
        assert 1 <= waiting_lines(service) <= 10, service.log
        with late:
            await service.says("started")
            async with connected(late.url) as client:
                ticks = await client.subscribe("tick")
                await client.request("nats-cron.jobs.create", TICK, timeout=5)
                await ticks.next_msg(timeout=5)
            service.terminate()
            assert await service.ended() == 0


async def test_nats_that_is_away_for_long_is_waited_for_without_a_flood_of_lines(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with running(ServiceProcess(tmp_path, "s", nats_server.url)) as service:
        await service.says("leading")
        async with connected(nats_server.url) as client:
            await client.request("nats-cron.jobs.create", TICK, timeout=5)
        before = waiting_lines(service)
        nats_server.kill()
        # The outage itself is what is tested; nothing tells its end but time.
        await asyncio.sleep(8)
        assert service.running
        assert 1 <= waiting_lines(service) - before <= 40, service.log
        service.forget()
        nats_server.start()
        await service.says("leading")
        async with connected(nats_server.url) as client:
            ticks = await client.subscribe("tick")
            await ticks.next_msg(timeout=10)
            status = json.loads((await client.request("nats-cron.status", b"", timeout=5)).data)
            assert (status["is_leader"], status["jobs"]) == (True, 1)
        code, out, err = await cli("--server", nats_server.url, "health")
        assert code == 0, out + err


async def test_everything_works_over_a_websocket(tmp_path: Path) -> None:
    config = 'websocket { listen: "127.0.0.1:-1", no_tls: true }'
    with NatsServer(tmp_path / "nats", config=config) as server:
        (ports,) = (tmp_path / "nats" / "ports").glob("*.ports")
        url = f"ws://127.0.0.1:{json.loads(ports.read_text())['websocket'][0].rpartition(':')[2]}"
        with running(ServiceProcess(tmp_path, "web", url)) as service:
            await service.says("leading")
            async with connected(server.url) as client:
                ticks = await client.subscribe("tick")
                await client.flush()
                code, out, err = await cli("--server", url, "add", "tick", "200ms", "hello")
                assert code == 0, out + err
                message = await ticks.next_msg(timeout=5)
                assert message.data == b"hello"
                assert (message.headers or {})["Nats-Cron-Job"] == "tick"
            code, out, err = await cli("--server", url, "list", "--json")
            assert [job["subject"] for job in json.loads(out)] == ["tick"], err
            service.terminate()
            assert await service.ended() == 0


@pytest.mark.parametrize("kind", ["password", "token", "nkey"])
async def test_credentials_of_every_kind_let_service_and_commands_in(tmp_path: Path, kind: str) -> None:
    secret = "s3cret-of-the-test"  # noqa: S105 - of the test's own server
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    file = tmp_path / "user.nk"
    file.write_bytes(seed)
    config, settings, flags, options = {
        "password": (
            f'user: "u", password: "{secret}"',
            {"NATS__USER": "u", "NATS__PASSWORD": secret},
            ["--user", "u", "--password", secret],
            {"user": "u", "password": secret},
        ),
        "token": (f'token: "{secret}"', {"NATS__TOKEN": secret}, ["--token", secret], {"token": secret}),
        "nkey": (
            f"users: [ {{ nkey: {public} }} ]",
            {"NATS__NKEY": str(file)},
            ["--nkey", str(file)],
            {"nkeys_seed": str(file)},
        ),
    }[kind]
    with (
        NatsServer(tmp_path / "nats", config=f"authorization {{ {config} }}") as server,
        running(ServiceProcess(tmp_path, "s", server.url, settings)) as service,
    ):
        await service.says("leading")
        async with connected(server.url, **options) as client:
            ticks = await client.subscribe("tick")
            await client.flush()
            code, out, err = await cli("--server", server.url, *flags, "add", "tick", "200ms")
            assert code == 0, out + err
            await ticks.next_msg(timeout=5)
        code, out, err = await cli("--server", server.url, "list")
        assert code == 1, "without credentials nobody is let in"
        assert secret not in service.log + out + err
        service.terminate()
        assert await service.ended() == 0
        assert secret not in service.log


async def test_sigterm_amid_many_requests_answers_those_it_took_and_ends_with_0(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    with running(ServiceProcess(tmp_path, "s", nats_server.url)) as service:
        await service.says("leading")
        async with connected(nats_server.url) as client:
            created = 0
            enough = asyncio.Event()

            async def load(worker: int) -> None:
                nonlocal created
                n = 0
                while True:
                    n += 1
                    body = json.dumps({"subject": f"load.{worker}.{n}", "schedule": {"every": "100ms"}}).encode()
                    try:
                        reply = await client.request("nats-cron.jobs.create", body, timeout=2)
                    except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
                        return
                    created += json.loads(reply.data).get("status") == "created"
                    if created >= 200:
                        enough.set()

            async with asyncio.timeout(60):
                workers = [asyncio.create_task(load(n)) for n in range(32)]
                await enough.wait()
                service.terminate()
                assert await service.ended() == 0
                await asyncio.gather(*workers)
            # What was answered with "created" is there.
            info = await client.jetstream().stream_info("KV_nats-cron-jobs")
            assert info.state.messages >= created
        assert service.said("stopped")


async def test_a_websocket_without_its_package_names_the_command_that_installs_it(tmp_path: Path) -> None:
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'aiohttp' else find(name, *rest)\n"
        "from natscron.cli.main import main\n"
        "main()\n"
    )
    for command in (["server", "--server", "ws://127.0.0.1:1"], ["list", "--server", "ws://127.0.0.1:1"]):
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, *command, stdout=pipe, stderr=pipe, cwd=tmp_path
        )
        async with asyncio.timeout(10):
            out, err = await process.communicate()
        assert process.returncode == 1
        assert b"pip install 'natscron[ws]'" in out + err
