"""The program as a user starts it, against real NATS servers."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from natscron.testing.nats import NatsServer, free_ports
from natscron.wire.connection import Connection
from natscron.wire.failures import Message
from natscron.wire.options import ConnectOptions

pytestmark = pytest.mark.anyio

NATS_CRON = (sys.executable, "-m", "natscron")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("NATS", "LOG_", "INSTANCE_"))}
    return kept | more


async def start(*args: str, url: str = "", command: Sequence[str] = NATS_CRON) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    env = environment(**({"NATS_URL": url} if url else {}))
    return await asyncio.create_subprocess_exec(*command, *args, stdin=pipe, stdout=pipe, stderr=pipe, env=env)


async def nats_cron(*args: str, url: str = "", stdin: str = "", command: Sequence[str] = NATS_CRON) -> Ended:
    process = await start(*args, url=url, command=command)
    out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def go_service(shared_nats: NatsServer) -> AsyncIterator[str]:
    """Answers as the Go version does, on its subjects; the URL of its server."""
    connection = await Connection.connect(ConnectOptions(url=shared_nats.url))
    answers = {
        "jobs.list": (b'{"jobs":[{"subject":"a.b"},{"subject":"a"}]}', None),
        "jobs.get": (b'{"subject":"a.b","schedule":{"every":"30s"}}', None),
        "jobs.create": (b'{"error":"job with subject a.b already exists"}', None),
        "jobs.update": (
            b"invalid schedule: schedule must specify either 'every' or 'cron'",
            {"Nats-Service-Error": "Failed to update job", "Nats-Service-Error-Code": "400"},
        ),
        "jobs.delete": (b'{"status":"deleted"}', None),
        "status": (b'{"is_leader":true,"jobs":2,"service":"nats-cron"}', None),
    }
    tasks: set[asyncio.Task[None]] = set()

    def answer(message: Message) -> None:
        data, headers = answers[message.subject.removeprefix("nats-cron.")]
        task = asyncio.get_running_loop().create_task(connection.publish(message.reply, data, headers=headers))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    subscriptions = [await connection.subscribe(f"nats-cron.{name}", answer, queue="q") for name in answers]
    await connection.flush()
    yield shared_nats.url
    for subscription in subscriptions:
        await subscription.unsubscribe()
    await connection.close()


async def test_a_service_of_the_go_version_is_understood(go_service: str) -> None:
    listed, got, added, updated, deleted, status, health = await asyncio.gather(
        nats_cron("list", "a.>", "--json", url=go_service),
        nats_cron("get", "a.b", url=go_service),
        nats_cron("add", "a.b", "30s", url=go_service),
        nats_cron("update", "a.b", "30s", url=go_service),
        nats_cron("delete", "a.*", "-y", url=go_service),
        nats_cron("status", url=go_service),
        nats_cron("health", url=go_service),
    )
    assert json.loads(listed.out) == [{"subject": "a.b", "schedule": {"every": "30s"}}]
    assert json.loads(got.out)["subject"] == "a.b"
    assert (added.code, added.err) == (1, "Error: job with subject a.b already exists\n")
    assert (updated.code, updated.err) == (
        1,
        "Error: Failed to update job: invalid schedule: schedule must specify either 'every' or 'cron'\n",
    )
    assert deleted.out.endswith("Deleted 1 job(s)\n")
    assert status.out == "Service: nats-cron\nIs Leader: true\nActive Jobs: 2\n"
    assert (health.code, "the Go version" in health.err) == (1, True)


async def test_without_a_service_the_remedy_is_named(shared_nats: NatsServer) -> None:
    ended = await nats_cron("--name", "nobody", "list", url=shared_nats.url)
    assert (ended.code, ended.out) == (1, "")
    assert f"no nobody instance answers nobody.jobs.list at {shared_nats.url}" in ended.err


async def test_without_nats_the_address_and_the_cause_are_named_without_the_password() -> None:
    port = free_ports(1)[0]
    ended = await nats_cron("list", "--server", f"nats://u:s3cret@127.0.0.1:{port}")
    assert ended.code == 1
    assert f"connecting to NATS at nats://***@127.0.0.1:{port}: " in ended.err
    assert "Connect call failed" in ended.err
    assert "s3cret" not in ended.err


async def test_a_wrong_password_is_told_as_what_it_is_and_the_right_one_connects(tmp_path: Path) -> None:
    config = 'authorization { user: "u", password: "right" }'
    with NatsServer(tmp_path / "auth", config=config) as server:
        wrong, right = await asyncio.gather(
            nats_cron("list", "--server", server.url, "--user", "u", "--password", "wrong"),
            nats_cron("list", "--server", server.url, "--user", "u", "--password", "right"),
        )
    assert (wrong.code, right.code) == (1, 1)
    assert "authorization violation" in wrong.err.lower()
    assert "no nats-cron instance answers" in right.err


async def test_a_missing_permission_is_told(tmp_path: Path) -> None:
    config = 'authorization { users: [{ user: "u", password: "p", permissions: { publish: "x" } }] }'
    with NatsServer(tmp_path / "auth", config=config) as server:
        ended = await nats_cron("list", "--server", server.url, "--user", "u", "--password", "p", "--timeout", "1s")
    assert ended.code == 1
    assert "permissions violation" in ended.err.lower()


async def test_watch_shows_live_runs_and_an_interrupt_ends_it_with_130(go_service: str) -> None:
    watching = await start("watch", "--json", "a.*", url=go_service)
    plain = await start("watch", url=go_service)
    assert plain.stderr is not None
    assert b"Watching runs" in await plain.stderr.readline()
    plain.send_signal(signal.SIGINT)
    _, err = await plain.communicate()
    assert (plain.returncode, b"Traceback" in err) == (130, False)

    connection = await Connection.connect(ConnectOptions(url=go_service))
    record = b'{"job":"a.b","status":"sent","run_id":"01K","from":null}'
    assert watching.stdout is not None
    reading = asyncio.ensure_future(watching.stdout.readline())
    while not reading.done():  # until the watch has subscribed nobody hears it
        await connection.publish("nats-cron.log.a.b", record)
        await asyncio.wait({reading}, timeout=0.05)
    assert json.loads(reading.result())["run_id"] == "01K"
    await connection.close()
    watching.send_signal(signal.SIGINT)
    await watching.communicate()
    assert watching.returncode == 130


@pytest.mark.parametrize(("to", "told"), [("a closed pipe", b""), ("/dev/full", b"No space left on device")])
async def test_output_that_cannot_be_written_ends_with_one_and_no_traceback(
    go_service: str, to: str, told: bytes
) -> None:
    if to == "/dev/full":
        target = os.open(to, os.O_WRONLY)
    else:
        reader, target = os.pipe()
        os.close(reader)
    process = await asyncio.create_subprocess_exec(
        *NATS_CRON, "status", stdout=target, stderr=subprocess.PIPE, env=environment(NATS_URL=go_service)
    )
    os.close(target)
    _, err = await process.communicate()
    assert process.returncode == 1
    assert b"Traceback" not in err
    assert b"Exception" not in err
    assert told in err
    assert err if told else not err


async def test_a_plain_command_loads_neither_nats_nor_rich_nor_the_server() -> None:
    code = (
        "import sys; from natscron.cli.main import cli, run; assert run(cli, ['version']) == 0; "
        "print(*sorted({name.split('.')[0] for name in sys.modules} & {'nats', 'rich', 'asyncio'}),"
        "*[name for name in sys.modules if name.startswith(('natscron.server', 'natscron.wire'))])"
    )
    ended = await nats_cron(command=(sys.executable, "-c", code))
    assert ended.out.splitlines()[1:] == [""]


@pytest.mark.parametrize("args", [["help"], ["-h"], ["--help"]])
async def test_the_server_program_shows_its_help_without_nats(args: list[str]) -> None:
    code = "import sys; from natscron.cli.main import server_main; sys.argv[0] = 'nats-cron-server'; server_main()"
    ended = await nats_cron(*args, command=(sys.executable, "-c", code))
    assert ended.code == 0
    assert "--instance-id" in ended.out
