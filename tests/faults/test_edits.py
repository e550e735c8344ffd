"""Jobs changed while nobody leads."""

import asyncio

import pytest
from tests.faults.stories import assert_kept

from natscron.codec import text_to_ms
from natscron.testing.fleet import Fleet

pytestmark = pytest.mark.anyio


async def test_edits_in_a_leaderless_second_lose_and_repeat_nothing(fleet: Fleet) -> None:
    fleet.start("a", LEASE__DURATION="3s")
    fleet.start("b", LEASE__DURATION="3s")
    names = ["core.edited", "core.again", "core.paused", "core.resumed", "core.untouched"]
    jobs = [{"subject": name, "schedule": {"every": "300ms"}, "delivery": "core"} for name in names]
    await fleet.create(jobs)
    leader = await fleet.leader()
    await fleet.passed(fleet.clock.now_ms())
    await change(fleet, "pause", {"subject": "core.resumed"})
    # Decided before the kill, so that no slot of the pause is left to anybody.
    await fleet.passed_mark()
    leader.kill()
    survivor = fleet.services["b" if leader.name == "a" else "a"]
    # Slots of the old versions fall due while nobody leads, and then of the new ones.
    await asyncio.sleep(0.5)
    await change(fleet, "update", {"subject": "core.edited", "schedule": {"every": "700ms"}})
    await change(fleet, "update", {"subject": "core.again", "schedule": {"every": "200ms"}})
    await change(fleet, "pause", {"subject": "core.paused"})
    await change(fleet, "resume", {"subject": "core.resumed"})
    await asyncio.sleep(0.3)
    await change(fleet, "update", {"subject": "core.again", "schedule": {"cron": "* * * * * *"}})
    await fleet.create([{"subject": "core.new", "schedule": {"every": "300ms"}, "delivery": "core"}])
    assert not survivor.said("leading"), "the takeover was too soon for the test to mean anything"
    await survivor.says("leading")
    verdict = await assert_kept(fleet, crashes=1)
    assert verdict.skipped == []


async def change(fleet: Fleet, what: str, body: dict[str, object]) -> None:
    """Ask for it, and owe what follows from it."""
    await fleet.api(f"jobs.{what}", body)
    subject = str(body["subject"])
    stored = await fleet.api("jobs.get", {"subject": subject})
    await fleet.cease(subject, text_to_ms(stored["updated_at"]))
    if stored["state"] != "paused":
        await fleet.owe(subject)


async def test_a_job_removed_in_a_leaderless_second_runs_no_more(fleet: Fleet) -> None:
    fleet.start("a", LEASE__DURATION="3s")
    fleet.start("b", LEASE__DURATION="3s")
    names = ["core.gone", "core.back", "core.stays"]
    jobs = [{"subject": name, "schedule": {"every": "300ms"}, "delivery": "core"} for name in names]
    await fleet.create(jobs)
    leader = await fleet.leader()
    await fleet.passed(fleet.clock.now_ms())
    leader.kill()
    killed_ms = fleet.clock.now_ms()
    survivor = fleet.services["b" if leader.name == "a" else "a"]
    await asyncio.sleep(0.7)
    for name in names[:2]:
        await fleet.api("jobs.delete", {"subject": name})
        # What the removed job had due since the kill goes with it: there is nothing left to send.
        await fleet.cease(name, killed_ms - 1_000)
    await fleet.create([jobs[1]])
    assert not survivor.said("leading"), "the takeover was too soon for the test to mean anything"
    await survivor.says("leading")
    verdict = await fleet.verdict()
    print(verdict)
    assert (verdict.lost, verdict.two_ids, verdict.skipped) == ([], [], [])
    assert all(slot <= killed_ms for _, slot in verdict.strangers)
