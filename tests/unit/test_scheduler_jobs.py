"""Jobs of a running scheduler: added, ensured, changed, removed, shown."""

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.unit.scheduling import NEVER, Spy, at, cluster, member, play

from natscron import (
    CatchUp,
    CatchUpPolicy,
    EmptyJobIDError,
    InvalidCronExpressionError,
    InvalidIntervalError,
    InvalidScheduleError,
    InvalidScheduleTimeError,
    JobAlreadyExistsError,
    JobNotFoundError,
    JobStatus,
    LimitExceededError,
    Overlap,
    Retry,
    UnknownCalendarError,
    ValidationError,
    cron,
    every,
    once,
)
from natscron.model import Job as Row
from natscron.model import ScheduleSpec
from natscron.testing.scheduler import VirtualScheduler


@pytest.fixture
def scheduler(natscron_scheduler: VirtualScheduler) -> VirtualScheduler:
    natscron_scheduler.set_handler(Spy())
    return natscron_scheduler


async def test_an_added_job_is_there_at_once_and_shows_what_was_given(scheduler: VirtualScheduler) -> None:
    await scheduler.add_job(
        "a",
        every("1m"),
        metadata={"team": "x"},
        payload={"n": [1, 2]},
        overlap="buffer_one",
        concurrency=2,
        timeout="90s",
        retry=Retry(attempts=4, backoff_ms=500),
        catchup="all",
        priority=7,
        pause_after_failures=3,
        note="why",
    )
    job = await scheduler.get_job("a")
    assert (job.id, job.metadata, job.payload, job.handler) == ("a", {"team": "x"}, {"n": [1, 2]}, "")
    assert (job.overlap, job.concurrency, job.timeout) == (Overlap.BUFFER_ONE, 2, dt.timedelta(seconds=90))
    assert (job.retry, job.catchup) == (Retry(attempts=4, backoff_ms=500), CatchUp(policy=CatchUpPolicy.ALL))
    assert (job.priority, job.pause_after_failures, job.note) == (7, 3, "why")
    assert (job.status, job.paused, job.is_running, job.error) == (JobStatus.PENDING, False, False, None)
    assert (job.next_run, job.last_run) == (at(60), None)
    assert (job.created_at, job.updated_at) == (at(0), at(0))
    assert job.schedule == every("1m")
    assert job.revision > 0


async def test_defaults_are_those_of_the_documentation(scheduler: VirtualScheduler) -> None:
    await scheduler.add_job("a", every("1m"))
    job = await scheduler.get_job("a")
    assert (job.metadata, job.payload, job.handler, job.note) == ({}, None, "", "")
    assert (job.overlap, job.concurrency, job.timeout) == (Overlap.SKIP, 0, None)
    assert (job.retry, job.catchup, job.priority, job.pause_after_failures) == (Retry(), CatchUp(), 0, 0)


async def test_no_two_jobs_have_one_id(scheduler: VirtualScheduler) -> None:
    await scheduler.add_job("a", every("1m"))
    with pytest.raises(JobAlreadyExistsError, match="a"):
        await scheduler.add_job("a", every("2m"))
    assert (await scheduler.get_job("a")).schedule == every("1m")


@pytest.mark.parametrize(
    ("identity", "error", "text"),
    [
        ("", EmptyJobIDError, "job ID cannot be empty"),
        ("x" * 256, ValidationError, "at most 255"),
        ("a\x00b", ValidationError, "NUL"),
        ("\ud800", ValidationError, "surrogate"),
        (7, ValidationError, "text"),
        (None, ValidationError, "text"),
    ],
)
async def test_ids_are_checked_and_before_anything_else(
    scheduler: VirtualScheduler, identity: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        await scheduler.add_job(identity, None, timeout="never")  # type: ignore[arg-type]
    with pytest.raises(error, match=text):
        await scheduler.ensure_job(identity, every("1m"))
    for call in (scheduler.get_job, scheduler.remove_job, scheduler.pause, scheduler.resume, scheduler.trigger):
        with pytest.raises(error, match=text):
            await call(identity)
    assert await scheduler.list_jobs() == []


@pytest.mark.parametrize(
    "identity", ["a b", "naïve", "日本", "x" * 255, "a.b/c:d", "*", ">", " ", "=b32.x", "_x", "a\nb"]
)
async def test_any_text_is_an_id(scheduler: VirtualScheduler, identity: str) -> None:
    await scheduler.add_job(identity, every("1m"))
    await scheduler.advance("1m")
    assert (await scheduler.get_job(identity)).status is JobStatus.COMPLETED
    assert [job.id for job in await scheduler.list_jobs()] == [identity]
    assert len(await scheduler.list_runs(identity)) == 1
    await scheduler.remove_job(identity)
    assert await scheduler.list_jobs() == []


@pytest.mark.parametrize(
    "schedule", [None, "* * * * *", 5, object(), ScheduleSpec(), ScheduleSpec(every="1s", cron="@daily")]
)
async def test_a_schedule_is_a_schedule(scheduler: VirtualScheduler, schedule: ScheduleSpec) -> None:
    with pytest.raises(InvalidScheduleError):
        await scheduler.add_job("a", schedule)
    with pytest.raises(JobNotFoundError):
        await scheduler.get_job("a")


@pytest.mark.parametrize(
    ("policies", "text"),
    [
        ({"metadata": {"a": 1}}, "metadata"),
        ({"metadata": ["a"]}, "metadata"),
        ({"metadata": {"": "x"}}, "metadata"),
        ({"metadata": {str(n): "" for n in range(65)}}, "64"),
        ({"payload": object()}, "JSON"),
        ({"payload": {1j: 2}}, "JSON"),
        ({"handler": "a b"}, "handler"),
        ({"overlap": "sometimes"}, "overlap"),
        ({"concurrency": -1}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"timeout": "0s"}, "timeout"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"retry": "often"}, "retry"),
        ({"retry": 0}, "attempts"),
        ({"retry": True}, "retry"),
        ({"catchup": "some"}, "catchup"),
        ({"priority": 101}, "priority"),
        ({"pause_after_failures": -1}, "pause_after_failures"),
        ({"paused": "yes"}, "paused"),
        ({"note": "x" * 5_000}, "note"),
        ({"colour": "red"}, "unknown argument 'colour'"),
    ],
)
async def test_a_policy_that_cannot_be_is_refused_by_name(
    scheduler: VirtualScheduler, policies: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValidationError, match=text):
        await scheduler.add_job("a", every("1m"), **policies)
    await scheduler.add_job("b", every("1m"))
    before = await scheduler.get_job("b")
    with pytest.raises(ValidationError, match=text):
        await scheduler.update_job("b", **policies)
    assert await scheduler.get_job("b") == before


async def test_a_payload_is_bounded(scheduler: VirtualScheduler) -> None:
    with pytest.raises(LimitExceededError, match="524288"):
        await scheduler.add_job("a", every("1m"), payload="x" * 524_288)
    await scheduler.add_job("a", every("1m"), payload="x" * 524_286)


async def test_jobs_are_listed_by_what_they_do(scheduler: VirtualScheduler) -> None:
    spy = Spy(lasts_s=30)
    scheduler.handler("slow")(spy)
    scheduler.handler("bad")(Spy(error=ValueError()))
    await scheduler.add_job("waiting", NEVER)
    await scheduler.add_job("running", every("1m"), handler="slow")
    await scheduler.add_job("fine", every("1m"))
    await scheduler.add_job("failing", every("1m"), handler="bad")
    await scheduler.add_job("resting", every("1m"), paused=True)
    await scheduler.advance("1m")
    found = {job.id: job.status for job in await scheduler.list_jobs()}
    assert found == {
        "waiting": JobStatus.PENDING,
        "running": JobStatus.RUNNING,
        "fine": JobStatus.COMPLETED,
        "failing": JobStatus.FAILED,
        "resting": JobStatus.DISABLED,
    }
    for job_id, status in found.items():
        assert [job.id for job in await scheduler.list_jobs(status)] == [job_id]
        assert [job.id for job in await scheduler.list_jobs(status.value)] == [job_id]
    assert await scheduler.list_jobs("rescheduling_failed") == []
    with pytest.raises(ValidationError, match="rescheduling_failed"):
        await scheduler.list_jobs("sleeping")


async def test_a_job_shows_that_and_when_it_ran(scheduler: VirtualScheduler) -> None:
    scheduler.set_handler(Spy(lasts_s=5))
    await scheduler.add_job("a", every("1m"))
    await scheduler.advance("62s")
    assert (await scheduler.get_job("a")).is_running
    await scheduler.advance("10s")
    job = await scheduler.get_job("a")
    assert (job.is_running, job.last_run, job.next_run) == (False, at(60), at(120))


async def test_a_snapshot_stays_as_it_was_and_is_the_callers_own(scheduler: VirtualScheduler) -> None:
    metadata, payload = {"k": "v"}, {"list": [1]}
    await scheduler.add_job("a", every("1m"), metadata=metadata, payload=payload)
    metadata["k"], payload["list"] = "other", [2]
    job = await scheduler.get_job("a")
    assert (job.metadata, job.payload) == ({"k": "v"}, {"list": [1]})
    job.metadata["k"] = "mine"
    job.payload["list"].append(9)
    with pytest.raises(AttributeError):
        job.note = "x"  # type: ignore[misc]
    await scheduler.update_job_schedule("a", every("5m"))
    assert job.schedule == every("1m")
    again = await scheduler.get_job("a")
    assert (again.metadata, again.payload) == ({"k": "v"}, {"list": [1]})
    [listed] = await scheduler.list_jobs()
    assert listed == again


async def test_an_unchanged_ensure_changes_nothing(scheduler: VirtualScheduler) -> None:
    given: Any = {"metadata": {"a": "1"}, "payload": [1], "retry": 2, "timeout": 5, "overlap": "allow"}
    assert await scheduler.ensure_job("a", every("10m"), **given)
    before = await scheduler.get_job("a")
    await scheduler.advance("7m")
    assert not await scheduler.ensure_job("a", every("10m"), **given)
    assert await scheduler.get_job("a") == before
    await scheduler.advance("3m")
    assert len(await scheduler.list_runs("a")) == 1, "an ensure at boot must not put the next run off"


@pytest.mark.parametrize(
    "change",
    [{"metadata": {"a": "2"}}, {"payload": [2]}, {"retry": 3}, {"timeout": "1m"}, {"overlap": "skip"}, {"note": "n"}],
)
async def test_a_changed_ensure_changes_what_it_says(scheduler: VirtualScheduler, change: dict[str, Any]) -> None:
    given: Any = {"metadata": {"a": "1"}, "payload": [1], "retry": 2, "timeout": 5, "overlap": "allow"}
    await scheduler.ensure_job("a", every("10m"), **given)
    before = await scheduler.get_job("a")
    await scheduler.advance("7m")
    assert await scheduler.ensure_job("a", every("10m"), **(given | change))
    after = await scheduler.get_job("a")
    assert after != before
    assert after.created_at == before.created_at
    await scheduler.advance("3m")
    assert len(await scheduler.list_runs("a")) == 1, "a changed policy must not put the next run off"


async def test_an_ensure_with_another_schedule_counts_from_then(scheduler: VirtualScheduler) -> None:
    await scheduler.ensure_job("a", every("10m"))
    await scheduler.advance("7m")
    assert await scheduler.ensure_job("a", cron("*/5 * * * *"))
    assert (await scheduler.get_job("a")).next_run == at(600)


async def test_an_ensure_leaves_alone_what_people_set_at_run_time(scheduler: VirtualScheduler) -> None:
    await scheduler.ensure_job("a", every("1m"))
    await scheduler.pause("a", until=at(600))
    assert not await scheduler.ensure_job("a", every("1m"))
    assert await scheduler.ensure_job("a", every("2m"))
    job = await scheduler.get_job("a")
    assert (job.paused, job.paused_until) == (True, at(600))


async def test_an_ensure_right_after_another_write_sees_it(scheduler: VirtualScheduler) -> None:
    await scheduler.add_job("a", every("1m"), metadata={"v": "1"})
    await scheduler.settle()
    await scheduler.update_job("a", metadata={"v": "2"})
    assert await scheduler.ensure_job("a", every("1m"), metadata={"v": "1"})
    assert (await scheduler.get_job("a")).metadata == {"v": "1"}
    await scheduler.remove_job("a")
    assert await scheduler.ensure_job("a", every("1m"), metadata={"v": "1"})
    assert (await scheduler.get_job("a")).metadata == {"v": "1"}


def test_any_number_of_processes_ensure_the_same_jobs_at_once() -> None:
    async def story() -> None:
        shared = cluster()
        spy = Spy()
        members = [member(shared, spy, instance=f"i{n}") for n in range(5)]
        for one in members:
            await one.ensure_job("kept", every("10s"))
        await asyncio.gather(*[one.start() for one in members])
        changed = await asyncio.gather(*[one.ensure_job("a", every("10s"), metadata={"v": "1"}) for one in members])
        assert sum(changed) == 1
        changed = await asyncio.gather(*[one.ensure_job("a", every("10s"), metadata={"v": "2"}) for one in members])
        assert sum(changed) >= 1
        for one in members:
            assert [(job.id, job.metadata) for job in await one.list_jobs()] == [("kept", {}), ("a", {"v": "2"})]
        await asyncio.sleep(10.5)
        assert sorted(event.id for event in spy.events) == ["a", "kept"]
        for one in members:
            await one.stop()

    play(story)


async def test_another_schedule_leaves_everything_else_as_it_is(scheduler: VirtualScheduler) -> None:
    await scheduler.add_job("a", every("10m"), metadata={"a": "1"}, payload=3, retry=4, note="n")
    await scheduler.advance("25m")
    before = await scheduler.get_job("a")
    await scheduler.update_job_schedule("a", once(at(3_600)))
    job = await scheduler.get_job("a")
    assert (job.metadata, job.payload, job.retry.attempts, job.note) == ({"a": "1"}, 3, 4, "n")
    assert (job.created_at, job.last_run, job.next_run) == (before.created_at, at(1200), at(3_600))
    assert job.schedule == once(at(3_600))
    assert job.updated_at == at(1500)
    await scheduler.advance("1h")
    assert (await scheduler.get_job("a")).last_run == at(3_600)
    assert (await scheduler.get_job("a")).next_run is None


async def test_a_slot_due_before_the_edit_still_runs_and_none_runs_twice(scheduler: VirtualScheduler) -> None:
    spy = Spy()
    scheduler.set_handler(spy)
    await scheduler.add_job("a", cron("0 9 * * *"))
    await scheduler.advance("1h")
    await scheduler.update_job_schedule("a", cron("30 8 * * *"))
    await scheduler.update_job_schedule("a", cron("0 9 * * *"))
    await scheduler.advance("2h")
    assert spy.slots == [at(3_600)], "an edit ran today's slot again"


async def test_policies_are_updated_one_by_one_and_none_resets(scheduler: VirtualScheduler) -> None:
    await scheduler.add_job("a", every("10m"), metadata={"a": "1"}, payload=3, timeout=5, retry=3, note="n", priority=2)
    await scheduler.update_job("a", timeout="1m", metadata={"b": "2"})
    job = await scheduler.get_job("a")
    assert (job.timeout, job.metadata, job.payload, job.retry.attempts) == (dt.timedelta(minutes=1), {"b": "2"}, 3, 3)
    await scheduler.update_job("a", timeout=None, metadata=None, payload=None, retry=None, note=None, priority=None)
    job = await scheduler.get_job("a")
    assert (job.timeout, job.metadata, job.payload, job.retry) == (None, {}, None, Retry())
    assert (job.note, job.priority, job.overlap, job.catchup) == ("", 0, Overlap.SKIP, CatchUp())
    await scheduler.update_job("a", every("1m"), paused=True)
    job = await scheduler.get_job("a")
    assert (job.schedule, job.paused) == (every("1m"), True)


async def test_what_is_not_there_cannot_be_changed(scheduler: VirtualScheduler) -> None:
    for call in (
        scheduler.get_job("x"),
        scheduler.update_job("x", note="n"),
        scheduler.update_job_schedule("x", every("1m")),
        scheduler.remove_job("x"),
        scheduler.pause("x"),
        scheduler.resume("x"),
        scheduler.trigger("x"),
        scheduler.backfill("x", at(-60), at(-1)),
    ):
        with pytest.raises(JobNotFoundError, match="x"):
            await call
    await scheduler.add_job("a", every("1m"))
    with pytest.raises(InvalidScheduleError):
        await scheduler.update_job_schedule("a", None)  # type: ignore[arg-type]
    with pytest.raises(UnknownCalendarError, match="holidays"):
        await scheduler.add_job("b", every("1m", except_="holidays"))


async def test_writers_at_once_lose_nothing(scheduler: VirtualScheduler) -> None:
    await scheduler.add_job("a", every("1m"))
    await asyncio.gather(
        scheduler.update_job("a", note="n"),
        scheduler.update_job("a", priority=5),
        scheduler.update_job("a", metadata={"k": "v"}),
        scheduler.pause("a"),
        scheduler.update_job_schedule("a", every("2m")),
    )
    job = await scheduler.get_job("a")
    assert (job.note, job.priority, job.metadata, job.paused) == ("n", 5, {"k": "v"}, True)
    assert job.schedule == every("2m")


async def test_a_stored_row_that_cannot_be_honoured_is_listed_with_its_error(scheduler: VirtualScheduler) -> None:
    await scheduler.add_job("a", every("1m"))
    await scheduler.storage.put_job(Row(id="bad", schedule=ScheduleSpec(cron="nonsense")))
    await scheduler.advance("2m")
    bad = await scheduler.get_job("bad")
    assert (bad.status, bad.next_run) == (JobStatus.RESCHEDULING_FAILED, None)
    assert bad.error
    assert len(await scheduler.list_runs("a")) == 2, "one bad row must not stop the others"
    await scheduler.update_job_schedule("bad", every("1m"))
    assert (await scheduler.get_job("bad")).status is JobStatus.PENDING


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: cron(""), InvalidScheduleError),
        (lambda: cron("bad"), InvalidCronExpressionError),
        (lambda: cron("TZ=UTC"), InvalidCronExpressionError),
        (lambda: cron("0 0 30 2 *"), InvalidCronExpressionError),
        (lambda: every("0s"), InvalidIntervalError),
        (lambda: every("-1s"), InvalidIntervalError),
        (lambda: once(dt.datetime(2031, 1, 1)), InvalidScheduleTimeError),  # noqa: DTZ001 - naive on purpose
    ],
)
def test_a_schedule_that_cannot_be_is_refused_where_it_is_made(
    make: Callable[[], object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        make()


async def test_six_fields_are_seconds_first(scheduler: VirtualScheduler) -> None:
    spy = Spy()
    scheduler.set_handler(spy)
    await scheduler.add_job("a", cron("*/20 * * * * *"))
    await scheduler.advance("1m")
    assert spy.slots == [at(20), at(40), at(60)]


async def test_a_big_list_is_listed_whole(scheduler: VirtualScheduler) -> None:
    for n in range(1_203):
        await scheduler.add_job(f"j{n:04}", NEVER)
    assert [job.id for job in await scheduler.list_jobs()] == [f"j{n:04}" for n in range(1_203)]


async def test_snapshots_are_plain_data(scheduler: VirtualScheduler) -> None:
    await scheduler.add_job("a", every("1m"))
    assert msgspec.to_builtins(await scheduler.get_job("a"))["id"] == "a"
