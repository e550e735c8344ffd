"""Runs that are asked for, and the history of all of them."""

import asyncio
import datetime as dt
from typing import Any

import pytest
from tests.unit.scheduling import NEVER, Spy, at, brief, cluster, member, play

from natscron import (
    InvalidScheduleTimeError,
    JobEvent,
    LimitExceededError,
    RunNotFoundError,
    RunStatus,
    Trigger,
    ValidationError,
    every,
)
from natscron.testing.scheduler import VirtualScheduler


@pytest.fixture
def scheduler(natscron_scheduler: VirtualScheduler) -> VirtualScheduler:
    natscron_scheduler.set_handler(Spy())
    return natscron_scheduler


async def test_a_trigger_runs_now_once_and_changes_no_slot(scheduler: VirtualScheduler) -> None:
    spy = Spy()
    scheduler.set_handler(spy)
    await scheduler.add_job("a", every("1m"), payload="own")
    await scheduler.advance("10s")
    run_id = await scheduler.trigger("a")
    await scheduler.advance("2m")
    assert spy.slots == [at(10), at(60), at(120)]
    first = spy.events[0]
    assert (first.run_id, first.trigger, first.payload, first.is_catch_up) == (run_id, Trigger.MANUAL, "own", False)
    run = await scheduler.get_run(run_id)
    assert (run.status, run.trigger, run.scheduled_at) == ("completed", "manual", at(10))


async def test_a_run_that_was_just_asked_for_is_pending(scheduler: VirtualScheduler) -> None:
    await scheduler.add_job("a", NEVER, payload="own")
    run_id = await scheduler.trigger("a")
    run = await scheduler.get_run(run_id)
    assert (run.job, run.run_id, run.status, run.reason, run.attempt) == ("a", run_id, "pending", None, 1)
    assert (run.trigger, run.delivery, run.scheduled_at, run.started_at) == ("manual", "handler", at(0), None)
    with pytest.raises(ValidationError, match="is pending and cannot be redriven"):
        await scheduler.redrive(run_id)
    await scheduler.finish()
    assert (await scheduler.get_run(run_id)).status == "completed"


async def test_a_backfill_that_goes_on_is_running(scheduler: VirtualScheduler) -> None:
    await scheduler.add_job("a", every("1s"))
    await scheduler.advance("10s")
    backfill = await scheduler.backfill("a", at(1), at(5), every="1s")
    instants = (int(at(1).timestamp() * 1000), int(at(5).timestamp() * 1000))
    for seconds, done in ((0, 0), (2, 2)):
        await scheduler.advance(f"{seconds}s")
        run = await scheduler.get_run(backfill)
        assert (run.status, run.trigger, run.from_ms, run.to_ms, run.count) == (
            ("running", "backfill", *instants, 5)
        ), seconds
        assert (run.result or "").endswith("of 5 slots")
        assert int((run.result or "").split()[0]) >= done
    await scheduler.advance("10s")
    assert (await scheduler.get_run(backfill)).reason == "backfill_done"


@pytest.mark.parametrize("run_id", ["", "x", "\0", "\ud800", "0" * 26, "x" * 10_000, "a b.*.>"])
async def test_no_other_run_is_found(scheduler: VirtualScheduler, run_id: str) -> None:
    with pytest.raises(RunNotFoundError):
        await scheduler.get_run(run_id)


def test_a_run_is_shown_in_every_process_before_anybody_leads_and_in_between() -> None:
    async def story() -> None:
        shared = cluster()
        async with (
            member(shared, plan=False, worker=False) as asking,
            member(shared, plan=False, worker=False) as other,
        ):
            await asking.add_job("a", NEVER)
            run_id = await asking.trigger("a")
            await asyncio.sleep(60)
            assert (await other.get_run(run_id)).status == "pending"
            async with member(shared, Spy(lasts_s=5)):
                seen: list[str] = []
                while not seen or seen[-1] != "completed":
                    # Whatever stands between the row and the queue: it is never unknown.
                    seen.append((await other.get_run(run_id)).status.value)
                    await asyncio.sleep(0.001)
                assert list(dict.fromkeys(seen)) == ["pending", "running", "completed"]

    play(story)


async def test_a_trigger_may_bring_a_payload_and_a_policy_of_its_own(scheduler: VirtualScheduler) -> None:
    spy = Spy(lasts_s=5)
    scheduler.set_handler(spy)
    await scheduler.add_job("a", NEVER, payload={"own": 1})
    payload = {"list": [1]}
    await scheduler.trigger("a", payload)
    payload["list"].append(2)
    skipped = await scheduler.trigger("a", 0)
    waits = await scheduler.trigger("a", None, overlap="buffer_one")
    await scheduler.trigger("a", [], overlap="allow")
    await scheduler.finish()
    assert [event.payload for event in spy.events] == [{"list": [1]}, [], {"own": 1}]
    assert (await scheduler.get_run(skipped)).reason == "overlap_skip"
    assert (await scheduler.get_run(waits)).status == "completed"
    with pytest.raises(ValidationError, match="overlap"):
        await scheduler.trigger("a", overlap="never")
    with pytest.raises(ValidationError, match="JSON"):
        await scheduler.trigger("a", object())
    with pytest.raises(LimitExceededError):
        await scheduler.trigger("a", "x" * 600_000)


async def test_the_same_key_is_the_same_run_while_it_goes_and_after(scheduler: VirtualScheduler) -> None:
    spy = Spy(lasts_s=5)
    scheduler.set_handler(spy)
    await scheduler.add_job("a", NEVER, overlap="allow")
    await scheduler.add_job("b", NEVER, overlap="allow")
    ids = await asyncio.gather(*[scheduler.trigger("a", key="k") for _ in range(5)])
    await scheduler.advance("1s")
    ids.append(await scheduler.trigger("a", key="k"))
    await scheduler.advance("1h")
    ids.append(await scheduler.trigger("a", key="k"))
    assert len(set(ids)) == 1
    others = [await scheduler.trigger("a", key="other"), await scheduler.trigger("b", key="k")]
    await scheduler.finish()
    assert {event.run_id for event in spy.events} == {ids[0], *others}
    assert len(spy.events) == 3


async def test_triggers_that_follow_each_other_closely_are_as_many_runs(scheduler: VirtualScheduler) -> None:
    await scheduler.add_job("a", NEVER, overlap="allow")
    ids = await asyncio.gather(*[scheduler.trigger("a") for _ in range(300)])
    await scheduler.finish()
    assert len(set(ids)) == 300
    runs = await scheduler.list_runs("a", limit=1_000)
    assert {run.run_id for run in runs} == set(ids)


def test_a_trigger_works_in_any_process_and_while_nobody_leads() -> None:
    async def story() -> None:
        shared = cluster()
        spy = Spy()
        asks = member(shared, worker=False, plan=False)
        async with asks:
            await asks.add_job("a", NEVER)
            run_id = await asks.trigger("a", "x")
            await asyncio.sleep(5)
            async with member(shared, spy):
                await asyncio.sleep(1)
            assert [(event.run_id, event.payload) for event in spy.events] == [(run_id, "x")]
            assert (await asks.get_run(run_id)).status == "completed"

    play(story)


async def test_a_backfill_runs_each_slot_of_the_past_one_after_the_other(scheduler: VirtualScheduler) -> None:
    spy = Spy(lasts_s=1)
    scheduler.set_handler(spy)
    await scheduler.add_job("a", every("10m", start_at=at(-3_600)), overlap="skip")
    await scheduler.settle()
    backfill = await scheduler.backfill("a", at(-3_600), at(-600))
    await scheduler.finish()
    assert spy.slots == [at(-3_600 + 600 * n) for n in range(6)]
    assert spy.most == 1
    assert {event.trigger for event in spy.events} == {Trigger.BACKFILL}
    done = [run for run in await scheduler.list_runs("a") if run.reason == "backfill_done"]
    assert [run.run_id for run in done] == [backfill]


async def test_a_backfill_with_a_key_is_made_once_and_with_another_again(scheduler: VirtualScheduler) -> None:
    spy = Spy()
    scheduler.set_handler(spy)
    await scheduler.add_job("a", every("10m", start_at=at(-3_600)))
    first = await scheduler.backfill("a", at(-3_600), at(-600), key="k")
    assert await scheduler.backfill("a", at(-3_600), at(-600), key="k") == first
    await scheduler.advance("1s")
    assert await scheduler.backfill("a", at(-3_600), at(-600), key="k") == first
    await scheduler.advance("1s")
    assert len(spy.events) == 6
    assert await scheduler.backfill("a", at(-3_600), at(-600)) != first
    await scheduler.advance("1s")
    assert len({event.run_id for event in spy.events}) == 12


async def test_a_backfill_is_of_the_past_and_has_slots(scheduler: VirtualScheduler) -> None:
    await scheduler.add_job("a", every("10m", start_at=at(-3_600)))
    for since, until in ((at(-60), at(60)), (at(-1), at(-60)), (at(-590), at(-10))):
        with pytest.raises(ValidationError):
            await scheduler.backfill("a", since, until)
    with pytest.raises(InvalidScheduleTimeError):
        await scheduler.backfill("a", dt.datetime(2020, 1, 1), at(-1))  # noqa: DTZ001 - naive on purpose
    with pytest.raises(ValidationError, match="every"):
        await scheduler.backfill("a", at(-3_600), at(-1), every="0s")


async def test_a_run_that_failed_for_good_can_be_tried_again(scheduler: VirtualScheduler) -> None:
    spy = Spy(error=ValueError("no"))
    scheduler.set_handler(spy)
    await scheduler.add_job("a", NEVER, retry=2)
    run_id = await scheduler.trigger("a")
    await scheduler.finish()
    assert (await scheduler.get_run(run_id)).status is RunStatus.DEAD
    spy.error = None
    await scheduler.redrive(run_id)
    await scheduler.finish()
    run = await scheduler.get_run(run_id)
    assert (run.attempt, run.status, run.reason) == (3, "completed", None)
    assert [event.attempt for event in spy.events] == [1, 2, 3]
    assert brief(await scheduler.list_runs("a", descending=False)) == [
        (1, "failed", "handler_error"),
        (2, "dead", "handler_error"),
        (3, "completed", None),
    ]


async def test_what_did_not_fail_for_good_is_not_tried_again(scheduler: VirtualScheduler) -> None:
    spy = Spy(lasts_s=10)
    scheduler.set_handler(spy)
    await scheduler.add_job("a", NEVER)
    run_id = await scheduler.trigger("a")
    skipped = await scheduler.trigger("a")
    await scheduler.advance("1s")
    with pytest.raises(ValidationError, match="running"):
        await scheduler.redrive(run_id)
    with pytest.raises(ValidationError, match="skipped"):
        await scheduler.redrive(skipped)
    await scheduler.finish()
    with pytest.raises(ValidationError, match="completed"):
        await scheduler.redrive(run_id)
    for unknown in ("", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "a b"):
        with pytest.raises(RunNotFoundError):
            await scheduler.redrive(unknown)
        with pytest.raises(RunNotFoundError):
            await scheduler.get_run(unknown)


async def test_a_redriven_run_waits_for_one_that_goes(scheduler: VirtualScheduler) -> None:
    spy = Spy(lasts_s=10, error=ValueError())
    scheduler.set_handler(spy)
    await scheduler.add_job("a", NEVER)
    failed = await scheduler.trigger("a")
    await scheduler.finish()
    await scheduler.trigger("a")
    await scheduler.advance("1s")
    await scheduler.redrive(failed)
    await scheduler.finish()
    assert (spy.most, len(spy.events)) == (1, 3)


async def test_a_redriven_run_fails_again_as_any_other(scheduler: VirtualScheduler) -> None:
    scheduler.set_handler(Spy(error=ValueError()))
    await scheduler.add_job("a", NEVER)
    run_id = await scheduler.trigger("a")
    await scheduler.finish()
    for attempt in (2, 3):
        await scheduler.redrive(run_id)
        await scheduler.finish()
        run = await scheduler.get_run(run_id)
        assert (run.attempt, run.status) == (attempt, RunStatus.DEAD)


async def history(scheduler: VirtualScheduler) -> None:
    """Six runs of a, each minute, lasting 1, 2, ... s, every second of which fails, and two of b."""
    lasts = iter(range(1, 100))

    async def works(event: JobEvent) -> None:
        if event.id == "a":
            await asyncio.sleep(seconds := next(lasts))
            if seconds % 2 == 0:
                raise ValueError

    scheduler.set_handler(works)
    await scheduler.add_job("a", every("1m"))
    await scheduler.add_job("b", every("3m"))
    await scheduler.advance("6m30s")


async def test_the_history_is_filtered_sorted_and_cut(scheduler: VirtualScheduler) -> None:
    await history(scheduler)

    async def slots(*args: Any, **options: Any) -> list[int]:  # noqa: ANN401 - as the Scheduler's
        runs = await scheduler.list_runs(*args, **options)
        return [int((run.scheduled_at - at(0)).total_seconds()) // 60 for run in runs if run.scheduled_at]

    assert await slots("a") == [6, 5, 4, 3, 2, 1]
    assert await slots("a", descending=False) == [1, 2, 3, 4, 5, 6]
    assert await slots("b") == [6, 3]
    assert await slots() == [6, 6, 5, 4, 3, 3, 2, 1]
    assert await slots("nobody") == []
    assert await slots("a", status="failed") == [6, 4, 2]
    assert await slots("a", status=RunStatus.COMPLETED) == [5, 3, 1]
    assert await slots("a", status="dead") == []
    assert await slots("a", since=at(120)) == [6, 5, 4, 3, 2], "since is inclusive"
    assert await slots("a", until=at(120)) == [1], "until is exclusive"
    assert await slots("a", since=at(120), until=at(240)) == [3, 2]
    assert await slots("a", limit=2) == [6, 5]
    assert await slots("a", limit=2, offset=3) == [3, 2]
    assert await slots("a", offset=6) == []
    for sort_by in ("start_time", "end_time", "duration"):
        assert await slots("a", sort_by=sort_by) == [6, 5, 4, 3, 2, 1]
        assert await slots("a", sort_by=sort_by, descending=False, limit=3) == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sort_by": "error"}, "sort_by must be"),
        ({"sort_by": "start_time; drop table x"}, "sort_by must be"),
        ({"sort_by": ""}, "sort_by must be"),
        ({"status": "tired"}, "status must be"),
        ({"limit": 0}, "limit must be"),
        ({"limit": 10_001}, "limit must be"),
        ({"limit": True}, "limit must be"),
        ({"limit": "5"}, "limit must be"),
        ({"offset": -1}, "offset must be"),
        ({"since": 5}, "since must be"),
        ({"until": "now"}, "until must be"),
        ({"since": dt.datetime(2031, 1, 1)}, "time zone"),  # noqa: DTZ001 - naive on purpose
    ],
)
async def test_a_question_that_cannot_be_answered_is_refused(
    scheduler: VirtualScheduler, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValidationError, match=text):
        await scheduler.list_runs("a", **options)
    with pytest.raises(ValidationError, match="ID cannot be empty"):
        await scheduler.list_runs("")


async def test_a_record_says_everything_about_its_run(scheduler: VirtualScheduler) -> None:
    spy = Spy(lasts_s=3)
    spy.gives = {"rows": 7}
    scheduler.set_handler(spy)
    await scheduler.add_job("a", every("1m"))
    await scheduler.advance("61s")
    [run] = await scheduler.list_runs("a")
    assert (run.job, run.status, run.reason, run.attempt, run.trigger) == ("a", "running", None, 1, "schedule")
    assert (run.started_at, run.finished_at, run.duration) == (at(60), None, None)
    await scheduler.advance("1m")
    run = await scheduler.get_run(run.run_id or "")
    assert (run.status, run.result, run.error, run.lateness_ms) == ("completed", '{"rows":7}', None, 0)
    assert (run.started_at, run.finished_at) == (at(60), at(63))
    assert run.duration == dt.timedelta(seconds=3)
    assert run.instance
    with pytest.raises(AttributeError):
        run.status = RunStatus.FAILED  # type: ignore[misc]


async def test_records_are_deleted_up_to_an_instant_inclusive(scheduler: VirtualScheduler) -> None:
    await history(scheduler)
    assert await scheduler.delete_runs("a", at(180)) == 3
    assert [run.scheduled_at for run in await scheduler.list_runs("a")] == [at(360), at(300), at(240)]
    assert len(await scheduler.list_runs("b")) == 2
    assert await scheduler.delete_runs("a", at(180)) == 0
    assert await scheduler.delete_runs("nobody", at(180)) == 0
    with pytest.raises(ValidationError, match="ID cannot be empty"):
        await scheduler.delete_runs("", at(180))
    with pytest.raises(InvalidScheduleTimeError):
        await scheduler.delete_runs("a", dt.datetime(2031, 1, 1))  # noqa: DTZ001 - naive on purpose
    assert await scheduler.delete_runs("a", at(86_400)) == 3
    assert (await scheduler.get_job("a")).last_run is None


async def test_a_run_that_goes_is_not_deleted(scheduler: VirtualScheduler) -> None:
    scheduler.set_handler(Spy(lasts_s=100))
    await scheduler.add_job("a", NEVER)
    run_id = await scheduler.trigger("a")
    await scheduler.advance("10s")
    assert await scheduler.delete_runs("a", at(10)) == 0
    await scheduler.finish()
    assert (await scheduler.get_run(run_id)).status == "completed"
