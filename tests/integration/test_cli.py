"""The program as a user starts it, against real NATS servers."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from natscron.server.app import Server
from natscron.server.options import ServerOptions
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


async def one_after_another(*commands: Sequence[str], url: str = "") -> list[Ended]:
    """The same in one process, which is quicker where many commands are to be seen."""
    code = """
import contextlib, io, json, sys
from natscron.cli.main import cli, run
for args in json.load(sys.stdin):
    out, err = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(cli, args)
    for stream in (out, err):
        stream.flush()
    print(json.dumps([code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()]))
"""
    ended = await nats_cron(url=url, stdin=json.dumps(commands), command=(sys.executable, "-c", code))
    assert ended.err == ""
    return [Ended(*json.loads(line)) for line in ended.out.splitlines()]


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
    listed, got, added, updated, deleted, status, health = await one_after_another(
        ("list", "a.>", "--json"),
        ("get", "a.b"),
        ("add", "a.b", "30s"),
        ("update", "a.b", "30s"),
        ("delete", "a.*", "-y"),
        ("status",),
        ("health",),
        url=go_service,
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


@pytest.fixture
async def service(shared_nats: NatsServer, request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, ...]]:
    """A server of ours that leads, under a name of its own; the flags with which to reach it."""
    name = f"cli-{zlib.crc32(request.node.name.encode())}"
    async with Server(ServerOptions(nats_url=shared_nats.url, name=name, instance_id="one")) as server:
        while not server.is_leader:  # noqa: ASYNC110 - the server tells no one when it begins to lead
            await asyncio.sleep(0.01)
        yield "--server", shared_nats.url, "--name", name


async def test_jobs_are_added_shown_and_changed(service: tuple[str, ...]) -> None:
    flags = ("--tz", "Europe/Berlin", "--label", "team=x", "--header", "X-A=1", "--retry", "3", "--delivery", "request")
    commands = {
        "add": ("add", "r.daily", "0 9 * * MON-FRI", '{"a": 1}', "--timeout", "2m", *flags),
        "added": ("get", "r.daily"),
        "add once": ("add", "r.once", "in 1h"),
        "add at": ("add", "x", "2027-01-31T09:00:00+01:00"),
        "list": ("list", "r.>"),
        "filtered": ("list", "--label", "team=x", "--json"),
        "update": ("update", "r.daily", "30 8 * * *"),
        "updated": ("get", "r.daily"),
        "flags": ("update", "r.daily", "--tz", "Europe/Paris", "--label", "more=y", "--unset", "headers"),
        "merged": ("get", "r.daily"),
        "pause": ("pause", "r.daily", "--note", "why"),
        "paused": ("list", "--state", "paused", "--json"),
        "resume": ("resume", "r.daily"),
        "next": ("next", "r.daily", "-n", "2"),
        "status": ("status",),
    }
    ended = await one_after_another(*((*service, *args) for args in commands.values()))
    assert [(one.code, one.err) for one in ended] == [(0, "")] * len(commands)
    out = {name: one.out for name, one in zip(commands, ended, strict=True)}

    assert out["add"].splitlines()[0] == "Job 'r.daily' created successfully"
    job = json.loads(out["added"])
    assert job["schedule"] == {"cron": "0 9 * * MON-FRI", "tz": "Europe/Berlin"}
    assert (job["retry"]["attempts"], job["timeout"], job["headers"]) == (3, "2m0s", {"X-A": "1"})
    assert [line.split()[0] for line in out["list"].splitlines()] == ["SUBJECT", "r.daily", "r.once"]
    assert [one["subject"] for one in json.loads(out["filtered"])] == ["r.daily"]
    assert "  Schedule: 30 8 * * *" in out["update"]
    assert json.loads(out["updated"])["payload"] == {"type": "json", "data": '{"a": 1}'}
    job = json.loads(out["merged"])
    assert job["schedule"] == {"cron": "30 8 * * *", "tz": "Europe/Paris"}
    assert (job["labels"], job.get("headers")) == ({"team": "x", "more": "y"}, None)
    assert out["pause"] == "Job 'r.daily' paused successfully\n"
    assert [one["note"] for one in json.loads(out["paused"])] == ["why"]
    assert out["resume"] == "Job 'r.daily' resumed successfully\n"
    assert out["next"].count(" 08:30:00 ") == 2
    assert out["status"].splitlines()[1:4] == ["Is Leader: true", "Active Jobs: 3", "Leader: one (epoch 1)"]


async def test_what_list_wrote_is_created_again_after_a_deletion(service: tuple[str, ...]) -> None:
    *_, listed = await one_after_another(
        (*service, "add", "r.a", "0 9 * * *", "text", "--label", "k=v"),
        (*service, "add", "r.b", "1h", "--paused"),
        (*service, "list", "--json"),
    )
    deleted = await nats_cron(*service, "delete", "r.*", stdin="y\n")
    assert (deleted.code, deleted.out.splitlines()[-1]) == (0, "Deleted 2 job(s)")
    created = await nats_cron(*service, "create", "-f", "-", stdin=listed.out)
    assert (created.code, created.err, created.out.splitlines()[-1]) == (0, "", "Stored 2 job(s)")
    again = await nats_cron(*service, "list", "--json")

    def own(text: str) -> dict[object, object]:
        changing = {"revision", "created_at", "updated_at", "next_run"}
        return {job["subject"]: {k: v for k, v in job.items() if k not in changing} for job in json.loads(text)}

    assert own(again.out) == own(listed.out)


async def test_what_the_server_refuses_is_told_on_stderr_and_ends_with_one(service: tuple[str, ...]) -> None:
    cases = [
        (("add", "a", "1h"), "already exists"),
        (("add", "$JS.API", "1h"), "$JS"),
        (("add", "b", "0 9 * * NODAY"), "NODAY"),
        (("add", "b", "0s"), "greater than 0"),
        (("update", "nosuch", "1m"), "nosuch"),
        (("delete", "nosuch"), "nosuch"),
        (("get", "nosuch"), "nosuch"),
        (("update", "a", "1m", "--expected-revision", "999"), "999"),
        (("next", "nosuch"), "nosuch"),
    ]
    added, *refused, absent = await one_after_another(
        (*service, "add", "a", "1h"),
        *((*service, *args) for args, _ in cases),
        (*service, "delete", "nosuch", "--if-exists"),
    )
    assert added.code == 0
    for ended, (_, told) in zip(refused, cases, strict=True):
        assert (ended.code, ended.out) == (1, "")
        assert ended.err.startswith("Error: ")
        assert told in ended.err
    assert (absent.code, absent.out) == (0, "No such job: nosuch\n")


async def test_runs_are_triggered_recorded_and_followed(service: tuple[str, ...]) -> None:
    assert (await nats_cron(*service, "add", "t.job", "1h")).code == 0
    watching = await start(*service, "watch", "t.*", "--json")
    assert watching.stdout is not None
    reading = asyncio.ensure_future(watching.stdout.readline())
    keys = itertools.count()
    triggered: set[str] = set()
    while not reading.done():  # until the watch has subscribed it hears no run
        ended = await nats_cron(*service, "trigger", "t.job", "--key", f"k{next(keys)}", "--json")
        triggered.add(json.loads(ended.out)["run_id"])
        await asyncio.wait({reading}, timeout=0.1)
    run = json.loads(reading.result())
    assert (run["job"], run["status"], run["trigger"]) == ("t.job", "sent", "manual")
    assert run["run_id"] in triggered
    watching.send_signal(signal.SIGINT)
    await watching.communicate()

    same = (*service, "trigger", "t.job", "--key", "same", "--json")
    first, again = [json.loads(ended.out)["run_id"] for ended in await one_after_another(same, same)]
    assert first == again
    following = await start(*service, "runs", "t.job", "--follow", "--json", "--limit", "100")
    assert following.stdout is not None
    seen: list[str] = []
    while first not in seen:  # from the history, or live: it is written behind
        seen.append(json.loads(await following.stdout.readline())["run_id"])
    assert len(seen) == len(set(seen))
    following.send_signal(signal.SIGINT)
    await following.communicate()
    assert following.returncode == 130


async def test_watch_says_when_the_connection_is_lost_and_there_again(nats_server: NatsServer) -> None:
    async with Server(ServerOptions(nats_url=nats_server.url, name="cli-lost")):
        watching = await start("watch", "--name", "cli-lost", url=nats_server.url)
        assert watching.stderr is not None
        assert b"Watching runs" in await watching.stderr.readline()
        await asyncio.to_thread(nats_server.kill)
        assert b"is lost; what happens meanwhile is not shown" in await watching.stderr.readline()
        await asyncio.to_thread(nats_server.start)
        assert b"again" in await watching.stderr.readline()
        watching.send_signal(signal.SIGINT)
        await watching.communicate()
        assert watching.returncode == 130


async def test_the_server_program_leads_and_stops_in_order_on_sigterm(shared_nats: NatsServer) -> None:
    flags = ("--server", shared_nats.url, "--name", "cli-program")
    program = await start("server", *flags, "--instance-id", "p1", "--log-level", "info")
    assert program.stdout is not None
    while json.loads(await program.stdout.readline())["msg"] != "leading":
        pass
    ended = await nats_cron(*flags, "health", "--json")
    assert (ended.code, json.loads(ended.out)["leader"]) == (0, "p1")
    program.terminate()
    await program.communicate()
    assert program.returncode == 0


async def test_dev_starts_nats_and_a_server_and_shows_the_demo_jobs_messages(tmp_path: Path) -> None:
    program = await start("dev", "--demo", "--store", str(tmp_path / "data"))
    assert program.stdout is not None
    lines: list[str] = []
    while not lines or "run" not in lines[-1] or "demo.tick" not in lines[-1]:
        lines.append((await program.stdout.readline()).decode())
        assert lines[-1], f"it ended: {lines}"
    url = next(line for line in lines if "NATS_URL=" in line).partition("NATS_URL=")[2].strip()
    assert "demo.tick" in (await nats_cron("list", url=url)).out
    program.send_signal(signal.SIGINT)
    _, err = await program.communicate()
    assert (program.returncode, err) == (0, b"")


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
