"""Instances killed and stopped."""

import pytest
from tests.faults.stories import assert_kept, every_second

from natscron.testing.fleet import Fleet
from natscron.wire.failures import Message

pytestmark = pytest.mark.anyio


async def test_a_job_stored_before_the_cold_start_fires(fleet: Fleet) -> None:
    fleet.start("a")
    await fleet.create(every_second(4))
    service = await fleet.leader()
    service.terminate()
    assert await service.ended() == 0
    fleet.start("b")
    await fleet.next_arrival()
    await assert_kept(fleet)


async def test_a_lone_instance_that_was_killed_goes_on_where_it_was(fleet: Fleet) -> None:
    service = fleet.start("a")
    await fleet.create(every_second(20))
    await fleet.next_arrival()
    service.kill()
    fleet.start("a")
    await assert_kept(fleet, crashes=1)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(400)])])
async def test_kills_of_the_leader_in_a_row_lose_nothing(fleet: Fleet, kills: int) -> None:
    fleet.start("a")
    fleet.start("b")
    await fleet.create([*every_second(80), *every_second(20, delivery="jetstream")])
    for _ in range(kills):
        leader = await fleet.leader()
        await fleet.next_arrival()
        leader.kill()
        fleet.start(leader.name)
        await fleet.passed(fleet.clock.now_ms())
    await assert_kept(fleet, crashes=kills)


async def test_a_kill_in_the_middle_of_a_burst_repeats_at_most_one_write(fleet: Fleet) -> None:
    fleet.start("a")
    fleet.start("b")
    jobs = [{"subject": f"core.b{n}", "schedule": {"cron": "*/2 * * * * *"}, "delivery": "core"} for n in range(1000)]
    await fleet.create(jobs)
    leader = await fleet.leader()
    await fleet.passed(fleet.clock.now_ms())
    await fleet.next_arrival()
    leader.kill()
    await assert_kept(fleet, crashes=1)


async def test_requests_that_a_killed_leader_sent_are_not_sent_again(fleet: Fleet) -> None:
    def work(message: Message) -> None:
        if message.reply:
            fleet.connection.publish_soon(message.reply, b"done")

    await fleet.connection.subscribe("core.r.>", work)
    fleet.start("a")
    fleet.start("b")
    schedules = ({"cron": "* * * * * *"}, {"every": "100ms"})
    jobs = [
        {"subject": f"core.r.{n}", "schedule": schedules[n % 2], "delivery": "request", "timeout": "3s"}
        for n in range(20)
    ]
    await fleet.create(jobs)
    for _ in range(2):
        leader = await fleet.leader()
        await fleet.passed(fleet.clock.now_ms())
        leader.kill()
        fleet.start(leader.name)
        await fleet.passed(fleet.clock.now_ms())
    verdict = await assert_kept(fleet, crashes=2)
    assert verdict.skipped == []


async def test_a_clean_stop_hands_over_without_loss_or_repeat(fleet: Fleet) -> None:
    fleet.start("a")
    fleet.start("b")
    await fleet.create([*every_second(80), *every_second(20, delivery="jetstream")])
    for _ in range(3):
        leader = await fleet.leader()
        await fleet.next_arrival()
        leader.terminate()
        assert await leader.ended() == 0
        fleet.start(leader.name)
        await fleet.passed(fleet.clock.now_ms())
    verdict = await assert_kept(fleet)
    assert verdict.skipped == []
