"""What the policies of a job do to its runs: time-outs, retries, overlap, concurrency, priority, failures in a row."""

import asyncio
import datetime as dt
import json
import logging

import pytest
from tests.unit.scheduling import NEVER, Spy, at, brief, cluster, member, play

from natscron import CatchUp, CatchUpPolicy, JobEvent, JobStatus, Overlap, Retry, every
from natscron.testing.scheduler import VirtualScheduler


async def test_a_handler_that_takes_too_long_is_cancelled(natscron_scheduler: VirtualScheduler) -> None:
    spy = Spy(lasts_s=60)
    natscron_scheduler.set_handler(spy)
    await natscron_scheduler.add_job("a", NEVER, timeout="5s")
    run_id = await natscron_scheduler.trigger("a")
    await natscron_scheduler.finish()
    run = await natscron_scheduler.get_run(run_id)
    assert (run.status, run.reason, run.error) == ("failed", "timeout", "the handler did not end within 5000 ms")
    assert run.duration == dt.timedelta(seconds=5)
    assert spy.cancelled == [run_id]
    assert natscron_scheduler.now == at(5)


async def test_a_timeout_is_for_each_try_and_counts_as_an_error(natscron_scheduler: VirtualScheduler) -> None:
    spy = Spy(lasts_s=60)
    natscron_scheduler.set_handler(spy)
    await natscron_scheduler.add_job("a", NEVER, timeout="5s", retry=Retry(attempts=3, backoff_ms=1_000, jitter=0))
    run_id = await natscron_scheduler.trigger("a")
    await natscron_scheduler.finish()
    assert [event.started_at for event in spy.events] == [at(0), at(6), at(13)]
    assert brief(await natscron_scheduler.list_runs("a", descending=False)) == [
        (1, "failed", "timeout"),
        (2, "failed", "timeout"),
        (3, "dead", "timeout"),
    ]
    assert {event.run_id for event in spy.events} == {run_id}


async def test_a_handler_in_a_thread_goes_on_after_its_timeout_and_its_run_with_it(
    natscron_scheduler: VirtualScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[dt.datetime] = []

    def slow(_event: JobEvent) -> None:
        natscron_scheduler.sleep("60s")
        ended.append(natscron_scheduler.now)

    natscron_scheduler.set_handler(slow)
    await natscron_scheduler.add_job("a", NEVER, timeout="5s", overlap="buffer_one", retry=1)
    first = await natscron_scheduler.trigger("a")
    await natscron_scheduler.trigger("a")
    with caplog.at_level(logging.WARNING):
        await natscron_scheduler.advance("30s")
    assert any("its thread cannot be ended" in record.message for record in caplog.records)
    assert (await natscron_scheduler.get_run(first)).status == "running"
    await natscron_scheduler.finish()
    run = await natscron_scheduler.get_run(first)
    assert (run.status, run.reason) == ("failed", "timeout")
    assert ended == [at(60), at(120)], "no second one began beside it"


async def test_its_own_time_out_error_is_an_error_like_others(natscron_scheduler: VirtualScheduler) -> None:
    async def fails(_event: JobEvent) -> None:
        async with asyncio.timeout(1):
            await asyncio.sleep(5)

    natscron_scheduler.set_handler(fails)
    await natscron_scheduler.add_job("a", NEVER, timeout="1h")
    run_id = await natscron_scheduler.trigger("a")
    await natscron_scheduler.finish()
    run = await natscron_scheduler.get_run(run_id)
    assert (run.status, run.reason) == ("failed", "handler_error")
    assert "TimeoutError" in (run.error or "")


async def test_retries_wait_longer_each_time_and_keep_the_run(natscron_scheduler: VirtualScheduler) -> None:
    spy = Spy(error=ValueError("no"))
    natscron_scheduler.set_handler(spy)
    retry = Retry(attempts=5, backoff_ms=1_000, factor=2, max_backoff_ms=3_000, jitter=0)
    await natscron_scheduler.add_job("a", NEVER, retry=retry, payload={"n": 1})
    run_id = await natscron_scheduler.trigger("a", {"n": 2})
    await natscron_scheduler.advance("1500ms")
    waiting = await natscron_scheduler.get_run(run_id)
    assert (waiting.attempt, waiting.status, waiting.reason) == (3, "pending", "retry")
    await natscron_scheduler.finish()
    assert [event.started_at for event in spy.events] == [at(0), at(1), at(3), at(6), at(9)]
    assert [(event.attempt, event.payload, event.run_id) for event in spy.events] == [
        (n, {"n": 2}, run_id) for n in range(1, 6)
    ]
    assert {event.scheduled_at for event in spy.events} == {at(0)}
    runs = await natscron_scheduler.list_runs("a", descending=False)
    assert brief(runs) == [*[(n, "failed", "handler_error") for n in range(1, 5)], (5, "dead", "handler_error")]


async def test_waiting_for_a_retry_takes_nobodys_place(natscron_scheduler: VirtualScheduler) -> None:
    fails = Spy(error=ValueError())
    fine = Spy()
    natscron_scheduler.handler("fails")(fails)
    natscron_scheduler.handler("fine")(fine)
    for n in range(150):
        await natscron_scheduler.add_job(f"f{n}", NEVER, handler="fails", retry=Retry(attempts=2, backoff_ms=60_000))
        await natscron_scheduler.trigger(f"f{n}")
    await natscron_scheduler.add_job("fine", NEVER, handler="fine")
    await natscron_scheduler.trigger("fine")
    await natscron_scheduler.settle()
    assert len(fails.events) == 150
    assert len(fine.events) == 1


@pytest.mark.parametrize(
    ("retry", "tries"),
    [
        (Retry(attempts=3, only=("ValueError",)), 3),
        (Retry(attempts=3, only=("Value*",)), 3),
        (Retry(attempts=3, only=("handler_error",)), 3),
        (Retry(attempts=3, only=("KeyError", "timeout")), 1),
        (Retry(attempts=3, never=("ValueError",)), 1),
        (Retry(attempts=3, never=("handler_*",)), 1),
        (Retry(attempts=3, never=("timeout",)), 3),
    ],
)
async def test_a_policy_names_the_errors_that_are_tried_again(
    natscron_scheduler: VirtualScheduler, retry: Retry, tries: int
) -> None:
    spy = Spy(error=ValueError())
    natscron_scheduler.set_handler(spy)
    await natscron_scheduler.add_job("a", NEVER, retry=retry)
    run_id = await natscron_scheduler.trigger("a")
    await natscron_scheduler.finish()
    assert len(spy.events) == tries
    assert (await natscron_scheduler.get_run(run_id)).status == "dead"


async def test_a_single_try_that_fails_is_failed_and_not_dead(natscron_scheduler: VirtualScheduler) -> None:
    natscron_scheduler.set_handler(Spy(error=ValueError()))
    await natscron_scheduler.add_job("a", every("1m"))
    await natscron_scheduler.advance("1m")
    assert brief(await natscron_scheduler.list_runs("a")) == [(1, "failed", "handler_error")]
    assert (await natscron_scheduler.get_job("a")).status is JobStatus.FAILED


async def overlapping(scheduler: VirtualScheduler, overlap: str, lasts_s: float = 25, **more: int) -> Spy:
    """A job each 10 s that takes longer, for a minute, and until all of it is over."""
    spy = Spy(lasts_s=lasts_s)
    scheduler.set_handler(spy)
    await scheduler.add_job("a", every("10s"), overlap=overlap, concurrency=more.get("concurrency"))
    await scheduler.advance("60s")
    await scheduler.pause("a")
    await scheduler.finish()
    return spy


def offsets(spy: Spy) -> list[float]:
    """When it was called, in seconds."""
    return [(event.started_at - at(0)).total_seconds() for event in spy.events]


async def test_skip_leaves_out_what_is_due_meanwhile(natscron_scheduler: VirtualScheduler) -> None:
    spy = await overlapping(natscron_scheduler, "skip")
    assert (offsets(spy), spy.most) == ([10, 40], 1)
    skipped = await natscron_scheduler.list_runs("a", status="skipped")
    assert {run.reason for run in skipped if run.run_id} == {"overlap_skip"}
    assert sorted(run.scheduled_at for run in skipped if run.run_id and run.scheduled_at) == [
        at(20),
        at(30),
        at(50),
        at(60),
    ]


async def test_buffer_one_lets_one_wait(natscron_scheduler: VirtualScheduler) -> None:
    spy = await overlapping(natscron_scheduler, "buffer_one", lasts_s=24)
    assert (offsets(spy), spy.most) == ([10, 34, 58, 82], 1)
    assert spy.slots == [at(10), at(20), at(40), at(60)]
    dropped = [run for run in await natscron_scheduler.list_runs("a") if run.reason == "buffer_full"]
    assert len(dropped) == 2
    assert {run.status for run in dropped} == {"skipped"}


async def test_buffer_all_lets_all_wait_in_order(natscron_scheduler: VirtualScheduler) -> None:
    spy = await overlapping(natscron_scheduler, "buffer_all")
    assert spy.slots == [at(10 * n) for n in range(1, 7)]
    assert (offsets(spy), spy.most) == ([10, 35, 60, 85, 110, 135], 1)


async def test_buffer_all_has_a_bound(natscron_scheduler: VirtualScheduler) -> None:
    spy = Spy(lasts_s=10_000)
    natscron_scheduler.set_handler(spy)
    await natscron_scheduler.add_job("a", every("10s"), overlap="buffer_all")
    await natscron_scheduler.advance("1200s")
    [first] = await natscron_scheduler.list_runs("a", status="running")
    assert first.scheduled_at == at(10)
    assert len(await natscron_scheduler.list_runs("a", status="pending", limit=1_000)) == 100
    full = await natscron_scheduler.list_runs("a", status="skipped", limit=1_000)
    assert len(full) == 19
    assert {run.reason for run in full} == {"buffer_full"}


async def test_cancel_other_ends_what_goes_and_never_has_two(natscron_scheduler: VirtualScheduler) -> None:
    spy = await overlapping(natscron_scheduler, "cancel_other")
    assert (offsets(spy), spy.most) == ([10, 20, 30, 40, 50, 60], 1)
    assert len(spy.cancelled) == 5
    assert [run.scheduled_at for run in await natscron_scheduler.list_runs("a", status="completed")] == [at(60)]
    replaced = await natscron_scheduler.list_runs("a", status="failed")
    assert [(run.reason, run.attempt) for run in replaced] == [("replaced", 1)] * 5


async def test_what_was_replaced_is_not_tried_again(natscron_scheduler: VirtualScheduler) -> None:
    spy = Spy(lasts_s=5)
    natscron_scheduler.set_handler(spy)
    await natscron_scheduler.add_job("a", NEVER, overlap="cancel_other", retry=5)
    await natscron_scheduler.trigger("a")
    await natscron_scheduler.advance("1s")
    await natscron_scheduler.trigger("a")
    await natscron_scheduler.finish()
    assert [event.attempt for event in spy.events] == [1, 1]


async def test_cancel_other_ends_what_waits_for_its_retry(natscron_scheduler: VirtualScheduler) -> None:
    spy = Spy(error=ValueError())
    natscron_scheduler.set_handler(spy)
    await natscron_scheduler.add_job("a", NEVER, overlap="cancel_other", retry=Retry(attempts=2, backoff_ms=60_000))
    first = await natscron_scheduler.trigger("a")
    await natscron_scheduler.advance("1s")
    spy.error = None
    await natscron_scheduler.trigger("a")
    await natscron_scheduler.finish()
    run = await natscron_scheduler.get_run(first)
    assert (run.attempt, run.status, run.reason) == (2, "skipped", "replaced")
    assert [event.attempt for event in spy.events] == [1, 1]


async def test_cancel_other_waits_for_a_thread_that_cannot_be_cancelled(natscron_scheduler: VirtualScheduler) -> None:
    spans: list[tuple[dt.datetime, dt.datetime]] = []

    def slow(_event: JobEvent) -> None:
        began = natscron_scheduler.now
        natscron_scheduler.sleep("30s")
        spans.append((began, natscron_scheduler.now))

    natscron_scheduler.set_handler(slow)
    await natscron_scheduler.add_job("a", NEVER, overlap="cancel_other")
    for _ in range(3):
        await natscron_scheduler.trigger("a")
        await natscron_scheduler.advance("1s")
    await natscron_scheduler.finish()
    assert spans == [(at(0), at(30)), (at(30), at(60))]
    runs = await natscron_scheduler.list_runs("a")
    assert sorted(brief(runs), key=str) == [(1, "completed", None), (1, "completed", None), (1, "skipped", "replaced")]


async def test_allow_lets_them_go_side_by_side(natscron_scheduler: VirtualScheduler) -> None:
    spy = await overlapping(natscron_scheduler, "allow")
    assert (offsets(spy), spy.most) == ([10, 20, 30, 40, 50, 60], 3)


async def test_so_many_of_a_job_go_at_once_as_it_says(natscron_scheduler: VirtualScheduler) -> None:
    spy = await overlapping(natscron_scheduler, "allow", concurrency=2)
    assert (offsets(spy), spy.most) == ([10, 20, 35, 45, 60, 70], 2)
    assert spy.slots == [at(10 * n) for n in range(1, 7)]


async def test_skip_with_a_concurrency_leaves_out_what_is_over_it(natscron_scheduler: VirtualScheduler) -> None:
    spy = await overlapping(natscron_scheduler, "skip", concurrency=2)
    assert (offsets(spy), spy.most) == ([10, 20, 40, 50], 2)


def test_a_jobs_concurrency_holds_over_all_processes() -> None:
    async def story() -> None:
        shared = cluster()
        spy = Spy(lasts_s=2.5)
        members = [member(shared, spy) for _ in range(3)]
        for one in members:
            await one.start()
        await members[0].add_job("a", every("500ms"), overlap="allow", concurrency=4)
        await members[0].add_job("b", every("500ms"))
        await asyncio.sleep(30)
        assert spy.most == 5
        for one in members:
            await one.stop()

    play(story)


def test_so_many_handlers_go_at_once_in_a_process_as_it_says() -> None:
    async def story() -> None:
        spy = Spy(lasts_s=1)
        async with member(cluster(), spy, concurrency=3) as one:
            for n in range(10):
                await one.add_job(f"j{n}", NEVER)
                await one.trigger(f"j{n}")
            await asyncio.sleep(3.5)
            assert (spy.most, len(spy.ended)) == (3, 9)
            await asyncio.sleep(1)
            assert len(spy.ended) == 10

    play(story)


def test_of_what_waits_for_a_place_the_higher_priority_goes_first() -> None:
    async def story() -> None:
        spy = Spy(lasts_s=1)
        async with member(cluster(), spy, concurrency=1) as one:
            await one.add_job("first", NEVER)
            await one.trigger("first")
            await asyncio.sleep(0.5)
            for n, priority in enumerate([0, -100, 7, 100, 7]):
                await one.add_job(f"p{priority}.{n}", NEVER, priority=priority)
                await one.trigger(f"p{priority}.{n}")
                await asyncio.sleep(0.01)
            await asyncio.sleep(10)
            assert [event.id for event in spy.events] == ["first", "p100.3", "p7.2", "p7.4", "p0.0", "p-100.1"]

    play(story)


async def test_a_job_that_keeps_failing_is_paused_and_says_why(natscron_scheduler: VirtualScheduler) -> None:
    spy = Spy(error=ValueError("broken pipe"))
    natscron_scheduler.set_handler(spy)
    await natscron_scheduler.add_job("a", every("1m"), pause_after_failures=3, note="mine")
    await natscron_scheduler.add_job("b", every("1m"))
    await natscron_scheduler.advance("10m")
    assert len([event for event in spy.events if event.id == "a"]) == 3
    assert len([event for event in spy.events if event.id == "b"]) == 10
    job = await natscron_scheduler.get_job("a")
    assert (job.status, job.paused) == (JobStatus.DISABLED, True)
    assert "paused after 3 failures in a row" in job.note
    assert "broken pipe" in job.note
    assert job.note.endswith("; mine")
    [told] = [run for run in await natscron_scheduler.list_runs("a") if run.reason == "failures_paused"]
    assert told.status == "skipped"
    spy.error = None
    await natscron_scheduler.resume("a")
    await natscron_scheduler.advance("5m")
    assert not (await natscron_scheduler.get_job("a")).paused


async def test_only_failures_in_a_row_are_counted_and_anew_after_a_resume(natscron_scheduler: VirtualScheduler) -> None:
    outcomes = iter([False, False, True, False, False, True, False, False, False, False, False, True, False, False])
    calls = 0

    async def works(_event: JobEvent) -> None:
        nonlocal calls
        calls += 1
        if not next(outcomes):
            raise ValueError

    natscron_scheduler.set_handler(works)
    await natscron_scheduler.add_job("a", every("1m"), pause_after_failures=3)
    await natscron_scheduler.advance("20m")
    assert calls == 9
    assert (await natscron_scheduler.get_job("a")).paused
    await natscron_scheduler.resume("a")
    await natscron_scheduler.advance("5m")
    assert calls == 14, "what failed before the pause does not count any more"
    assert not (await natscron_scheduler.get_job("a")).paused


async def test_a_run_counts_once_however_often_it_was_tried(natscron_scheduler: VirtualScheduler) -> None:
    spy = Spy(error=ValueError())
    natscron_scheduler.set_handler(spy)
    retry = Retry(attempts=3, backoff_ms=100)
    await natscron_scheduler.add_job("a", every("1m"), pause_after_failures=2, retry=retry)
    await natscron_scheduler.advance("90s")
    assert not (await natscron_scheduler.get_job("a")).paused
    await natscron_scheduler.advance("60s")
    assert (await natscron_scheduler.get_job("a")).paused
    assert len(spy.events) == 6


async def test_what_is_tried_by_hand_counts_only_when_it_works(natscron_scheduler: VirtualScheduler) -> None:
    spy = Spy(error=ValueError())
    natscron_scheduler.set_handler(spy)
    await natscron_scheduler.add_job("a", every("1m"), pause_after_failures=2)
    for _ in range(5):
        await natscron_scheduler.trigger("a")
        await natscron_scheduler.finish()
    assert not (await natscron_scheduler.get_job("a")).paused
    await natscron_scheduler.advance("1m")
    spy.error = None
    await natscron_scheduler.trigger("a")
    await natscron_scheduler.finish()
    spy.error = ValueError()
    await natscron_scheduler.advance("1m")
    assert not (await natscron_scheduler.get_job("a")).paused


async def test_catching_up_is_bounded_and_told(natscron_scheduler: VirtualScheduler) -> None:
    spy = Spy()
    natscron_scheduler.set_handler(spy)
    limited = CatchUp(policy=CatchUpPolicy.ALL, limit=3)
    await natscron_scheduler.add_job("a", every("1m"), catchup=limited, overlap="allow")
    await natscron_scheduler.stop()
    await natscron_scheduler.advance("10m30s")
    await natscron_scheduler.start()
    await natscron_scheduler.settle()
    assert [(event.scheduled_at, event.is_catch_up) for event in spy.events] == [(at(60 * n), True) for n in (8, 9, 10)]
    left_out = await natscron_scheduler.list_runs("a", status="skipped")
    assert [(run.reason, run.count) for run in left_out] == [("catchup_limit", 7)]


def test_a_policy_is_words_or_a_value() -> None:
    async def story() -> None:
        async with member(cluster(), Spy()) as one:
            await one.add_job("a", NEVER, overlap=Overlap.ALLOW, retry=2, timeout=dt.timedelta(minutes=1))
            await one.add_job("b", NEVER, overlap="allow", retry=Retry(attempts=2), timeout=60)
            a, b = await one.get_job("a"), await one.get_job("b")
            assert (a.overlap, a.retry, a.timeout) == (b.overlap, b.retry, b.timeout)
            assert json.dumps(a.overlap) == '"allow"'

    play(story)
