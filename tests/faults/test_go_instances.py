"""While an instance of the Go version lives, ours does not lead; what it covered is not run again."""

import asyncio
from typing import Final

import msgspec
import pytest
from tests.faults.stories import every_second

from natscron.testing.fleet import Fleet
from natscron.wire.failures import Message

pytestmark = pytest.mark.anyio

NOTICED_MS: Final = 5_000
"""It is looked for every 3 s; until then what it covered cannot be told from what nobody did."""


class Go:
    """Answers PING as the Go version does. It fires nothing: what arrives here is ours."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.alive = False

    async def start(self) -> None:
        def answer(message: Message) -> None:
            if self.alive:
                self._fleet.connection.publish_soon(message.reply, msgspec.json.encode(body))

        body = {
            "type": "io.nats.micro.v1.ping_response",
            "name": "nats-cron",
            "id": "X" * 22,
            "version": "1.0.0",
            "metadata": {"instance_id": "go-1"},
        }
        self.alive = True
        await self._fleet.connection.subscribe("$SRV.PING.nats-cron", answer)


async def test_what_a_go_instance_covered_is_not_run_again(fleet: Fleet) -> None:
    go = Go(fleet)
    await go.start()
    ours = fleet.start("ours")
    refusal = await ours.says("Not leading")
    assert "go-1" in refusal["reason"]
    ours.forget()
    await fleet.create(every_second(4))
    assert (await fleet.status())["leader"] is None
    await asyncio.sleep(4)
    assert fleet.heard == []
    await ours_takes_over(fleet, go)
    # It comes back while ours leads: ours stands down, and takes over again where it ends.
    ours.forget()
    go.alive = True
    await ours.says("lease released")
    released_ms = fleet.clock.now_ms()
    heard = len(fleet.heard)
    await asyncio.sleep(4)
    assert len(fleet.heard) == heard
    ours.forget()
    await ours_takes_over(fleet, go)
    assert not [a for a in fleet.heard[heard:] if a.slot_ms < released_ms]


async def test_what_fell_due_after_a_go_leader_died_runs_although_its_key_lived_on(fleet: Fleet) -> None:
    stream = {
        "name": "KV_nats-cron-leader",
        "subjects": ["$KV.nats-cron-leader.>"],
        "max_msgs_per_subject": 1,
        "max_age": 5_000_000_000,
    }
    await fleet.connection.js_request(f"STREAM.CREATE.{stream['name']}", stream)
    await fleet.connection.request("$KV.nats-cron-leader.leader", b"nats-cron")
    ours = fleet.start("ours")
    assert "leader key" in (await ours.says("Not leading"))["reason"]
    ours.forget()
    await fleet.create(every_second(4))
    await ours.says("leading")
    until_ms = fleet.clock.now_ms()
    await fleet.passed(until_ms)
    ran = {(a.subject, a.slot_ms) for a in fleet.heard}
    owed = {(s.subject, slot) for s in fleet.stretches for slot in s.slots(until_ms)}
    assert len(owed) > 4
    assert owed <= ran


async def ours_takes_over(fleet: Fleet, go: Go) -> None:
    """Nothing after the end of the Go instance is lost, nothing from well before is run."""
    heard = len(fleet.heard)
    gone_ms = fleet.clock.now_ms()
    go.alive = False
    await fleet.services["ours"].says("leading")
    until_ms = fleet.clock.now_ms()
    await fleet.passed(until_ms)
    ran = {(a.subject, a.slot_ms) for a in fleet.heard[heard:]}
    owed = {(s.subject, slot) for s in fleet.stretches for slot in s.slots(until_ms) if slot > gone_ms}
    assert owed <= ran
    assert all(slot > gone_ms - NOTICED_MS for _, slot in ran)
