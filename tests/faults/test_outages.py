"""NATS restarted, the leader suspended, the network cut."""

import asyncio
from typing import Any

import pytest
from tests.faults.stories import assert_kept, every_second

from natscron.testing.fleet import Fleet
from natscron.testing.nats import NatsServer, TcpProxy

pytestmark = pytest.mark.anyio

SOAK: Any = [pytest.mark.soak, pytest.mark.timeout(180)]


@pytest.mark.parametrize("seconds", [3, pytest.param(20, marks=SOAK)])
async def test_a_restart_of_nats_delays_and_loses_nothing(
    fleet: Fleet, nats_server: NatsServer, seconds: float
) -> None:
    fleet.start("a")
    fleet.start("b")
    await fleet.create([*every_second(40), *every_second(20, delivery="jetstream")])
    await fleet.leader()
    await fleet.passed(fleet.clock.now_ms())
    nats_server.kill()
    # The outage itself is what is tested; nothing tells its end but time.
    await asyncio.sleep(seconds)
    back_ms = fleet.clock.now_ms()
    nats_server.start()
    verdict = await assert_kept(fleet, crashes=1)
    grace_ms = 12_000
    assert all(slot < back_ms - grace_ms + 5_000 for _, slot in verdict.skipped)
    assert bool(verdict.skipped) is (seconds * 1000 > grace_ms + 5_000)
    assert len(await fleet.leading()) == 1


@pytest.mark.parametrize("seconds", [5, pytest.param(10, marks=SOAK)])
async def test_a_leader_that_was_suspended_comes_back_as_a_follower(fleet: Fleet, seconds: float) -> None:
    fleet.start("a")
    fleet.start("b")
    await fleet.create([*every_second(40), *every_second(20, delivery="jetstream")])
    leader = await fleet.leader()
    await fleet.passed(fleet.clock.now_ms())
    leader.suspend()
    # The other one takes over meanwhile; how long the first is away is the test's parameter.
    await asyncio.sleep(seconds)
    leader.resume()
    await leader.says("leadership lost")
    verdict = await assert_kept(fleet, crashes=1)
    assert verdict.skipped == []
    assert await fleet.leading() == [name for name in ("a", "b") if name != leader.name]


async def test_a_suspended_lone_instance_goes_on_where_it_was(fleet: Fleet) -> None:
    service = fleet.start("a")
    await fleet.create(every_second(20))
    await fleet.leader()
    await fleet.passed(fleet.clock.now_ms())
    service.suspend()
    await asyncio.sleep(4)
    service.resume()
    await assert_kept(fleet, crashes=1)
    assert await fleet.leading() == ["a"]


@pytest.mark.parametrize("how", ["cut", "freeze"])
async def test_a_leader_without_its_network_is_replaced(fleet: Fleet, proxy: TcpProxy, how: str) -> None:
    leader = fleet.start("a", url=proxy.url)
    await leader.says("leading")
    fleet.start("b")
    await fleet.create([*every_second(40), *every_second(20, delivery="jetstream")])
    await fleet.passed(fleet.clock.now_ms())
    if how == "cut":
        await proxy.cut()
    else:
        proxy.freeze()
    await fleet.services["b"].says("leading")
    await leader.says("leadership lost")
    await fleet.passed(fleet.clock.now_ms())
    await proxy.mend()
    verdict = await assert_kept(fleet, crashes=1)
    assert verdict.skipped == []
    assert await fleet.leading() == ["b"]


async def test_a_short_cut_costs_a_lone_instance_nothing(fleet: Fleet, proxy: TcpProxy) -> None:
    leader = fleet.start("a", url=proxy.url)
    await leader.says("leading")
    await fleet.create(every_second(40))
    for _ in range(3):
        await fleet.passed(fleet.clock.now_ms())
        leader.forget()
        await proxy.cut()
        await proxy.mend()
        await leader.says("leading")
    verdict = await assert_kept(fleet, crashes=3)
    assert verdict.skipped == []
