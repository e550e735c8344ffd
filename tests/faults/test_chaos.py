"""Drawn faults, one upon the other, for minutes.

``NATSCRON_CHAOS_SECONDS`` is how long (default 120). ``NATSCRON_CHAOS_SEED`` brings a story back, nearly.
"""

import asyncio
import contextlib
import os
import random
from pathlib import Path

import pytest
from tests.faults.stories import assert_kept, every_second

from natscron.testing.fleet import Fleet
from natscron.testing.nats import NatsServer, TcpProxy

pytestmark = [pytest.mark.anyio, pytest.mark.soak, pytest.mark.timeout(900)]

NAMES = ("a", "b", "c")
FAULTS = ("kill", "kill", "stop", "suspend", "nats", "cut", "freeze", "edit")


class Chaos:
    """Three services, each behind a proxy of its own."""

    def __init__(self, fleet: Fleet, nats_server: NatsServer, proxies: dict[str, TcpProxy], seed: int) -> None:
        self.fleet = fleet
        self.nats = nats_server
        self.proxies = proxies
        self.draw = random.Random(seed)  # noqa: S311 - repeatable
        self.told: list[str] = []

    async def step(self) -> None:
        """One fault, and its end. Mostly it hits the leader."""
        name = self.draw.choice(NAMES)
        if self.draw.random() < 0.7:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.draw.choice([0.5, 3])):
                    name = (await self.fleet.leader()).name
        fault, seconds = self.draw.choice(FAULTS), self.draw.choice([0.05, 0.3, 1, 2.2, 4, 6])
        self.told.append(f"{fault} {name} {seconds}")
        service, proxy = self.fleet.services[name], self.proxies[name]
        match fault:
            case "kill":
                service.kill()
                await asyncio.sleep(seconds)
                service.start()
            case "stop":
                service.terminate()
                assert await service.ended(40) == 0, service.log[-3000:]
                await asyncio.sleep(seconds)
                service.start()
            case "suspend":
                service.suspend()
                await asyncio.sleep(seconds)
                service.resume()
            case "nats":
                self.nats.kill()
                await asyncio.sleep(seconds)
                self.nats.start()
            case "cut":
                await proxy.cut()
                await asyncio.sleep(seconds)
                await proxy.mend()
            case "freeze":
                proxy.freeze()
                await asyncio.sleep(seconds)
                await proxy.mend()
            case _:
                # Any instance may be asked; what it changes about a job does not change what is owed.
                body = {"subject": "core.j0", "labels": {"n": str(seconds)}}
                with contextlib.suppress(TimeoutError):
                    await self.fleet.api("jobs.update", body)
        await asyncio.sleep(self.draw.choice([0, 0.1, 0.7, 1.5, 3]))


async def test_no_row_of_faults_loses_a_slot_or_runs_it_under_two_ids(tmp_path: Path, nats_server: NatsServer) -> None:
    seed = int(os.environ.get("NATSCRON_CHAOS_SEED") or random.randrange(1 << 32))  # noqa: S311 - not a secret
    seconds = float(os.environ.get("NATSCRON_CHAOS_SECONDS") or 120)
    async with contextlib.AsyncExitStack() as stack:
        proxies = {name: await stack.enter_async_context(TcpProxy(nats_server.port)) for name in NAMES}
        settings = {"HISTORY__PER_JOB": "10000", "SERVICE__SHUTDOWN_TIMEOUT": "5s"}
        fleet = await stack.enter_async_context(Fleet(tmp_path / "fleet", nats_server.url, settings=settings))
        await fleet.listen()
        for name in NAMES:
            fleet.start(name, url=proxies[name].url)
        await fleet.create([*every_second(30), *every_second(10, delivery="jetstream")])
        chaos = Chaos(fleet, nats_server, proxies, seed)
        end = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < end:
            await chaos.step()
        try:
            verdict = await assert_kept(fleet, crashes=len(chaos.told))
        except BaseException:
            print(f"NATSCRON_CHAOS_SEED={seed}: {chaos.told}")
            raise
        print(f"{len(chaos.told)} faults: {verdict}")
