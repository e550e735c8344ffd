"""Policies at the API: what goes with what, pauses with an end, skipping, triggers and reports."""

from typing import TYPE_CHECKING, Any

import pytest

from natscron.clock import SystemClock
from natscron.codec import ms_to_text, text_to_ms
from natscron.errors import ValidationError
from natscron.model import CatchUp, CatchUpPolicy, Delivery, Job, Overlap, Retry, Run, RunStatus, ScheduleSpec, Skip
from natscron.schedule import compile_schedule
from natscron.server import effects
from natscron.server.admission import next_due
from natscron.server.delivery import CapturingStream

if TYPE_CHECKING:
    from tests.unit.conftest import World

pytestmark = pytest.mark.anyio

HOUR = 3_600_000
RUN = "01JQ0000000000000000000000"
WAITING = ("skip", "buffer_one", "buffer_all", "cancel_other")


def job(subject: str = "a.b", every: str = "1h", **more: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    return {"subject": subject, "schedule": {"every": every}, **more}


def now_ms() -> int:
    return SystemClock().now_ms()


# What goes with what.


@pytest.mark.parametrize("word", WAITING)
async def test_an_overlap_policy_needs_somebody_who_tells_when_a_run_ends(world: "World", word: str) -> None:
    world.streams.replace([CapturingStream("S", ("stored.>",))])
    for delivery, subject, named in (
        ("core", "a", "'core'"),
        ("jetstream", "stored.a", "'jetstream'"),
        ("auto", "a", "'auto', which comes to 'core'"),
        ("auto", "stored.a", "'auto', which comes to 'jetstream'"),
    ):
        code, _, text = await world.error("jobs.create", job(subject, delivery=delivery, overlap=word))
        assert code == 422
        assert named in text
        assert word in text
        assert "request" in text
        assert "reports" in text
    assert "warning" not in await world.body("jobs.create", job("b", delivery="request", overlap=word))
    for number, delivery in enumerate(("core", "auto", "jetstream")):
        there = job(f"stored.{number}", delivery=delivery, overlap=word, reports=True)
        assert "warning" not in await world.body("jobs.create", there)


async def test_what_auto_comes_to_may_not_be_known_yet(world: "World") -> None:
    assert "no effect" in (await world.body("jobs.create", job(overlap="skip")))["warning"]


async def test_with_reports_a_timeout_goes_with_every_delivery(world: "World") -> None:
    for number, delivery in enumerate(("core", "auto")):
        there = job(f"a.{number}", delivery=delivery, timeout="5m", reports=True)
        assert "warning" not in await world.body("jobs.create", there)


def of(**fields: Any) -> Job:  # noqa: ANN401 - any field of a job
    return Job(id="a", schedule=ScheduleSpec(every="1h"), **fields)


@pytest.mark.parametrize(
    ("there", "effective", "said"),
    [
        (of(catchup=CatchUp(limit=5)), Delivery.REQUEST, "catchup.limit has no effect with policy 'latest'"),
        (of(catchup=CatchUp(policy=CatchUpPolicy.NONE, window_ms=5)), None, "catchup.window has no effect"),
        (of(catchup=CatchUp(window_ms=5_000)), None, "catchup policy 'latest' has no effect"),
        (
            of(catchup=CatchUp(policy=CatchUpPolicy.ALL), overlap=Overlap.SKIP, reports=True),
            Delivery.CORE,
            "leaves out all but the first of them",
        ),
        (
            of(catchup=CatchUp(policy=CatchUpPolicy.ALL), overlap=Overlap.CANCEL_OTHER, reports=True),
            Delivery.CORE,
            "takes the place of the one before",
        ),
        (
            of(catchup=CatchUp(policy=CatchUpPolicy.ALL, limit=500), overlap=Overlap.BUFFER_ALL, reports=True),
            Delivery.CORE,
            "at most 100 runs wait",
        ),
        (of(retry=Retry(attempts=3)), Delivery.CORE, "retry has no effect with delivery 'core'"),
        (of(retry=Retry(attempts=3)), Delivery.JETSTREAM, "until the timeout it is tried again"),
        (of(retry=Retry(never=("5*",)), delivery=Delivery.REQUEST), Delivery.REQUEST, "with one attempt"),
        (of(pause_after_failures=3), Delivery.CORE, "pause_after_failures has no effect"),
        (of(reports=True, delivery=Delivery.REQUEST), Delivery.REQUEST, "reports is not needed"),
        (of(paused=True, paused_until_ms=5), None, "the pause is over"),
    ],
)
def test_options_without_effect_are_named(there: Job, effective: Delivery | None, said: str) -> None:
    [sentence] = effects.idle(there, effective, 10_000)
    assert said in sentence


@pytest.mark.parametrize(
    ("there", "effective"),
    [
        (of(), Delivery.CORE),
        (of(catchup=CatchUp(policy=CatchUpPolicy.ALL, limit=500)), Delivery.CORE),
        (of(catchup=CatchUp(policy=CatchUpPolicy.ALL, limit=50), overlap=Overlap.BUFFER_ALL, reports=True), None),
        (of(retry=Retry(attempts=3, only=("timeout",)), delivery=Delivery.REQUEST), Delivery.REQUEST),
        (of(retry=Retry(attempts=3), pause_after_failures=2, reports=True), Delivery.CORE),
        (of(pause_after_failures=2), Delivery.JETSTREAM),
        (of(paused=True, paused_until_ms=20_000), None),
    ],
)
def test_options_with_an_effect_are_not(there: Job, effective: Delivery | None) -> None:
    assert effects.idle(there, effective, 10_000) == ()


# Saving.


async def test_the_runs_of_max_runs_are_counted_when_it_is_saved_and_not_again(world: "World") -> None:
    schedule = {"cron": "0 * * * *", "max_runs": 3}
    await world.body("jobs.create", {"subject": "a", "schedule": schedule})
    first = (await world.body("jobs.get", {"subject": "a"}))["schedule"]
    assert 2 * HOUR < text_to_ms(first["last_slot"]) - now_ms() <= 3 * HOUR
    await world.body("jobs.put", {"subject": "a", "schedule": schedule, "note": "the file again"})
    assert (await world.body("jobs.get", {"subject": "a"}))["schedule"] == first
    await world.body("jobs.update", {"subject": "a", "schedule": {**schedule, "max_runs": 5}})
    assert (await world.body("jobs.get", {"subject": "a"}))["schedule"]["last_slot"] > first["last_slot"]


async def test_a_pause_may_end_by_itself(world: "World") -> None:
    await world.body("jobs.create", job())
    reply = await world.body("jobs.pause", {"subject": "a.b", "until": "in 2h", "note": "moving"})
    assert reply["status"] == "paused"
    assert abs(text_to_ms(reply["paused_until"]) - now_ms() - 2 * HOUR) < 60_000
    stored = world.store.rows["a.b"]
    assert (stored.paused, ms_to_text(stored.paused_until_ms or 0)) == (True, reply["paused_until"])
    await world.body("jobs.resume", {"subject": "a.b"})
    assert (world.store.rows["a.b"].paused, world.store.rows["a.b"].paused_until_ms) == (False, None)
    await world.body("jobs.pause", {"subject": "a.b", "until": "2199-01-01T00:00:00+01:00"})
    await world.body("jobs.pause", {"subject": "a.b"})
    assert world.store.rows["a.b"].paused_until_ms is None


@pytest.mark.parametrize("text", ["2020-01-01T00:00:00Z", "soon", "in -5m", "in 0s", "2h"])
async def test_a_pause_ends_in_the_future(world: "World", text: str) -> None:
    await world.body("jobs.create", job())
    code, _, said = await world.error("jobs.pause", {"subject": "a.b", "until": text})
    assert (code, "until" in said) == (422, True)
    assert not world.store.rows["a.b"].paused


async def test_the_end_of_a_pause_in_a_job_pauses_it(world: "World") -> None:
    reply = await world.body("jobs.create", job(paused_until="in 2h"))
    stored = world.store.rows["a.b"]
    assert (stored.paused, stored.paused_until_ms is not None) == (True, True)
    assert "warning" not in reply
    assert (await world.error("jobs.create", job("c", paused=False, paused_until="in 2h")))[0] == 422
    await world.body("jobs.update", {"subject": "a.b", "paused": False})
    assert (world.store.rows["a.b"].paused, world.store.rows["a.b"].paused_until_ms) == (False, None)


# Skipping.


async def test_the_next_slots_are_left_out_and_named(world: "World") -> None:
    await world.body("jobs.create", {"subject": "a", "schedule": {"cron": "0 * * * *"}})
    first = await world.body("jobs.skip", {"subject": "a"})
    assert (first["count"], first["status"], len(first["skipped"])) == (1, "skipped", 1)
    assert 0 < text_to_ms(first["skipped"][0]) - now_ms() <= HOUR
    assert text_to_ms(first["next_run"]) == text_to_ms(first["skipped"][0]) + HOUR
    second = await world.body("jobs.skip", {"subject": "a", "count": 2})
    assert second["skipped"][0] == first["next_run"]
    skip = world.store.rows["a"].skip
    assert skip is not None
    assert skip.until_ms == text_to_ms(first["skipped"][0]) + 2 * HOUR
    many = await world.body("jobs.skip", {"subject": "a", "count": 100})
    assert (many["count"], len(many["skipped"])) == (100, 20)
    back = await world.body("jobs.skip", {"subject": "a", "count": 0})
    assert (back["count"], back["status"], back["next_run"]) == (0, "active", first["skipped"][0])
    assert world.store.rows["a"].skip is None


async def test_a_slot_that_is_a_moment_away_may_be_under_way(world: "World") -> None:
    await world.body("jobs.create", {"subject": "a", "schedule": {"cron": "* * * * * *"}})
    assert "may be under way" in (await world.body("jobs.skip", {"subject": "a"}))["warning"]


async def test_a_skip_that_is_over_counts_for_nothing(world: "World") -> None:
    world.store.write(
        "a",
        b'{"subject":"a","schedule":{"cron":"0 * * * *"},'
        b'"skip":{"from":"2020-01-01T00:00:00Z","until":"2020-01-01T05:00:00Z"}}',
    )
    await world.body("jobs.skip", {"subject": "a"})
    skip = world.store.rows["a"].skip
    assert skip is not None
    assert abs(skip.from_ms - now_ms()) < 60_000


async def test_what_has_no_next_slot_cannot_be_skipped(world: "World") -> None:
    await world.body("jobs.create", {"subject": "done", "schedule": {"at": "in 50ms"}})
    world.store.write("over", b'{"subject":"over","schedule":{"at":"2020-01-01T00:00:00Z"}}')
    await world.body("jobs.create", job("resting", paused=True))
    world.store.write("bad", b'{"subject":"bad","schedule":{"cron":"99 * * * *"}}')
    for subject, said in (("over", "no further slot"), ("resting", "resume it first"), ("bad", "cannot be honoured")):
        code, _, text = await world.error("jobs.skip", {"subject": subject})
        assert (code, said in text) == (422, True)
    assert (await world.error("jobs.skip", {"subject": "none"}))[0] == 404
    for count in (-1, 1001, "2", True):
        assert (await world.error("jobs.skip", {"subject": "resting", "count": count}))[0] == 422


async def test_a_once_job_can_be_skipped_for_good(world: "World") -> None:
    await world.body("jobs.create", {"subject": "a", "schedule": {"at": "in 1h"}})
    reply = await world.body("jobs.skip", {"subject": "a", "count": 5})
    assert (reply["count"], reply["next_run"]) == (1, None)


async def test_slots_after_a_pause_that_ends_by_itself_can_be_skipped(world: "World") -> None:
    await world.body("jobs.create", {"subject": "a", "schedule": {"cron": "0 * * * *"}})
    until = (now_ms() // HOUR + 10) * HOUR
    await world.body("jobs.pause", {"subject": "a", "until": ms_to_text(until)})
    reply = await world.body("jobs.skip", {"subject": "a"})
    assert [text_to_ms(slot) for slot in reply["skipped"]] == [until]


async def test_a_skip_survives_saving_the_same_schedule_and_not_another(world: "World") -> None:
    there: dict[str, Any] = {"subject": "a", "schedule": {"cron": "0 * * * *"}}
    await world.body("jobs.create", there)
    await world.body("jobs.skip", {"subject": "a", "count": 3})
    skip = world.store.rows["a"].skip
    await world.body("jobs.put", {**there, "note": "n"})
    await world.body("jobs.update", {"subject": "a", "note": "m"})
    assert world.store.rows["a"].skip == skip
    reply = await world.body("jobs.update", {"subject": "a", "schedule": {"cron": "* * * * *"}})
    assert "the skip is taken back" in reply["warning"]
    assert world.store.rows["a"].skip is None
    await world.body("jobs.skip", {"subject": "a", "count": 3})
    await world.body("jobs.put", there)
    assert world.store.rows["a"].skip is None


def test_the_next_run_lies_behind_what_is_skipped_and_paused() -> None:
    schedule = compile_schedule(ScheduleSpec(cron="0 * * * *"), anchor_ms=0).schedule
    assert next_due(of(), schedule, 0) == HOUR
    assert next_due(of(skip=Skip(0, 3 * HOUR)), schedule, 0) == 4 * HOUR
    assert next_due(of(skip=Skip(HOUR, 3 * HOUR)), schedule, 0) == HOUR
    assert next_due(of(paused=True), schedule, 0) is None
    assert next_due(of(paused=True, paused_until_ms=5 * HOUR), schedule, 0) == 5 * HOUR


def test_jitter_does_not_bring_back_a_skipped_slot() -> None:
    schedule = compile_schedule(ScheduleSpec(cron="0 * * * *", jitter="50m"), anchor_ms=0, seed="a").schedule
    for until in range(1, 20):
        due = next_due(of(skip=Skip(-1, until * HOUR)), schedule, 0)
        assert due is not None
        assert schedule.dues.slot_of(due) == (until + 1) * HOUR


# Triggers and reports.


async def test_a_trigger_may_have_a_policy_of_its_own(world: "World") -> None:
    await world.body("jobs.create", job(delivery="request"))
    await world.body("jobs.create", job("core", delivery="core"))
    await world.body("jobs.trigger", {"subject": "a.b", "overlap": "skip"})
    assert world.engine.triggered[-1][3] is Overlap.SKIP
    await world.body("jobs.trigger", {"subject": "core", "overlap": "allow"})
    assert (await world.error("jobs.trigger", {"subject": "core", "overlap": "skip"}))[0] == 422
    assert (await world.error("jobs.trigger", {"subject": "a.b", "overlap": "odd"}))[0] == 422


@pytest.mark.parametrize("there", [{"reports": True}, {"delivery": "request"}])
async def test_a_report_on_a_run_that_is_waited_for_goes_to_the_leader_alone(
    world: "World", there: dict[str, Any]
) -> None:
    await world.body("jobs.create", job(**there))
    reply = await world.body(
        "runs.report",
        {"run_id": RUN, "job": "a.b", "status": "failed", "attempt": 2, "code": "E7", "error": "no\x00 disk"},
    )
    assert reply == {"run_id": RUN, "status": "recorded"}
    [(run_id, subject, report)] = world.engine.reported
    assert (run_id, subject) == (RUN, "a.b")
    assert (report.status, report.attempt, report.code) == (RunStatus.FAILED, 2, "E7")
    assert report.error == "no\ufffd disk"
    assert world.engine.recorded == []
    await world.body("runs.report", {"run_id": RUN, "job": "a.b", "status": "running"})
    assert [run.status for run in world.engine.recorded] == [RunStatus.RUNNING]


async def test_a_report_need_not_name_the_job_of_a_run_with_a_record(world: "World") -> None:
    await world.body("jobs.create", job(reports=True))
    assert (await world.error("runs.report", {"run_id": RUN, "status": "completed"}))[0] == 404
    world.store.runs.append(Run(job="a.b", status=RunStatus.RUNNING, run_id=RUN))
    await world.body("runs.report", {"run_id": RUN, "status": "completed"})
    assert [(run_id, subject) for run_id, subject, _ in world.engine.reported] == [(RUN, "a.b")]


async def test_a_report_on_any_other_run_is_recorded_here(world: "World") -> None:
    await world.body("jobs.create", job(delivery="core"))
    await world.body("runs.report", {"run_id": RUN, "job": "a.b", "status": "failed", "code": "E7", "error": "no"})
    assert [run.error for run in world.engine.recorded] == ["E7: no"]
    assert world.engine.reported == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"run_id": "short"},
        {"code": "x" * 200},
        {"error": "x" * 5000},
        {"attempt": 0},
        {"started_at": "2199-01-01T00:00:00Z"},
        {"started_at": "soon"},
        {"status": "sent"},
    ],
)
async def test_a_report_that_cannot_be_is_refused(world: "World", wrong: dict[str, Any]) -> None:
    await world.body("jobs.create", job(reports=True))
    report = {"run_id": RUN, "job": "a.b", "status": "completed", **wrong}
    assert (await world.error("runs.report", report))[0] == 422
    assert world.engine.reported == []


async def test_those_who_embed_get_typed_errors(world: "World") -> None:
    with pytest.raises(ValidationError):
        await world.calls.policies.skip({"subject": "a", "count": -1})


# Schedules.


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ({"at": "2020-01-01T00:00:00Z"}, "has no slot ahead (the last was 2020-01-01T00:00:00.000Z)"),
        ({"cron": "0 9 * * *", "not_after": "2020-01-01T00:00:00Z"}, "no slot ahead"),
        ({"cron": "30 2 * * *", "dst_gap": "skip"}, "dst_gap changes nothing: the zone is UTC"),
        ({"cron": "30 2 * * *", "dst_fold": "both"}, "dst_fold changes nothing: the zone is UTC"),
    ],
)
async def test_a_schedule_that_may_not_be_what_was_meant_is_stored_with_a_warning(
    world: "World", schedule: dict[str, Any], said: str
) -> None:
    assert said in (await world.body("jobs.create", {"subject": "a", "schedule": schedule}))["warning"]


async def test_a_schedule_with_slots_ahead_and_a_zone_has_no_warning(world: "World") -> None:
    for number, schedule in enumerate(
        (
            {"at": "in 5m"},
            {"cron": "30 2 * * *", "tz": "Europe/Berlin", "dst_gap": "skip"},
            {"cron": "CRON_TZ=Europe/Berlin 30 2 * * *", "dst_gap": "skip"},
        )
    ):
        body = {"subject": f"a.{number}", "schedule": schedule}
        assert "warning" not in await world.body("jobs.create", body)


# What a request has to be.


@pytest.mark.parametrize(
    ("endpoint", "wrong", "said"),
    [
        ("jobs.skip", {"count": 1.5}, "count must be a whole number of at least 0 and at most 1000; got 1.5"),
        ("jobs.skip", {"count": "3"}, "count must be a whole number of at least 0 and at most 1000; got '3'"),
        ("jobs.trigger", {"key": "x" * 300}, "key must be text of at most 256 characters; got 'xxx"),
        ("jobs.trigger", {"overlap": "no"}, "overlap must be one of allow, skip, buffer_one, buffer_all, cancel_other"),
        ("jobs.backfill", {"dry_run": "yes"}, "dry_run must be true or false; got 'yes'"),
        ("jobs.preview", {"schedule": "5m"}, "schedule must be an object; got '5m'"),
        ("runs.report", {}, "status is required"),
        ("runs.report", {"status": "done"}, "status must be one of completed, failed, running; got 'done'"),
    ],
)
async def test_a_wrong_request_names_field_rule_and_value(
    world: "World", endpoint: str, wrong: dict[str, Any], said: str
) -> None:
    code, _, text = await world.error(endpoint, {"subject": "a", **wrong})
    assert (code, said in text) == (422, True), text
