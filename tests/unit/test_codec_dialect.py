"""The whole dialect through JSON and rows: schedules, job fields, versions, open rows."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.dialect import jobs, specs

from natscron.codec import (
    decode_row,
    encode_row,
    job_to_json,
    merge_job,
    parse_calendar,
    parse_job,
    read_schedule,
    state,
    successor,
)
from natscron.errors import MalformedInputError, NatscronError, ValidationError
from natscron.model import (
    Backfill,
    Delivery,
    Job,
    Mark,
    OpenRow,
    OpenState,
    Overlap,
    Report,
    Retry,
    RunStatus,
    ScheduleSpec,
    Skip,
    Solar,
    Stamp,
    Trigger,
    Version,
)

WRITE = Stamp(1_000, 7)
EVERY = ScheduleSpec(every="1s")


def stored(job: Job, stamp: Stamp = WRITE) -> Job:
    return decode_row("jobs.a", encode_row(job), stamp)


def test_a_schedule_with_everything_is_read() -> None:
    found = read_schedule(
        {
            "ANY": [
                {"cron": "0 9 * * *", "TZ": "Europe/Berlin"},
                {"Solar": {"Event": "sunset", "latitude": 52, "longitude": 13.4}},
            ],
            "Except": [{"calendar": "holidays"}, {"rrule": "FREQ=YEARLY"}],
            "not_before": "2026-01-01T00:00:00Z",
            "not_after": None,
            "max_runs": 5,
            "jitter": "30s",
        }
    )
    assert found == ScheduleSpec(
        any=(
            ScheduleSpec(cron="0 9 * * *", tz="Europe/Berlin"),
            ScheduleSpec(solar=Solar(event="sunset", latitude=52.0, longitude=13.4)),
        ),
        except_=(ScheduleSpec(calendar="holidays"), ScheduleSpec(rrule="FREQ=YEARLY")),
        not_before="2026-01-01T00:00:00Z",
        max_runs=5,
        jitter="30s",
    )


MINUTELY = {"every": "1m"}
DEEP: dict[str, Any] = {"any": [MINUTELY]}
for _ in range(50):
    DEEP = {"any": [DEEP]}


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"any": []}, "schedule.any must have from 1 to 8 members; got 0"),
        ({"any": [MINUTELY] * 9}, "schedule.any must have from 1 to 8 members; got 9"),
        ({"except": [MINUTELY] * 17}, "schedule.except must have"),
        ({"any": MINUTELY}, "cannot unmarshal object into Go struct field .schedule.any of type []struct"),
        ({"any": [MINUTELY, None]}, "cannot unmarshal null into Go struct field .schedule.any[1] of type struct"),
        ({"any": [MINUTELY, MINUTELY, {"cron": 5}]}, "number into Go struct field .schedule.any[2].cron"),
        ({"any": [{"crn": "x"}]}, "unknown schedule field 'crn' in schedule.any[0]"),
        ({"any": [{"any": [MINUTELY]}]}, "schedule.any[0].any is not possible there"),
        ({"any": [{"every": "1m", "jitter": "5s"}]}, "schedule.any[0].jitter is not possible there"),
        ({"any": [{"every": "1m", "run_at_start": True}]}, "schedule.any[0].run_at_start is not possible"),
        ({"except": [{"every": "1m", "max_runs": 3}]}, "schedule.except[0].max_runs is not possible there"),
        ({"any": [{"calendar": "x"}]}, 'schedule.any[0].calendar has its place in "except" only'),
        ({"calendar": "x"}, 'schedule.calendar has its place in "except" only'),
        ({"max_runs": 0}, "schedule.max_runs must be a whole number from 1 to 10000; got 0"),
        ({"max_runs": True}, "schedule.max_runs must be"),
        ({"max_runs": 10_001}, "schedule.max_runs must be"),
        ({"solar": "noon"}, "cannot unmarshal string into Go struct field .schedule.solar of type struct"),
        ({"solar": {"latitude": 1, "longitude": 1}}, "schedule.solar.event is required"),
        ({"solar": {"event": "noon", "longitude": 1}}, "schedule.solar.latitude must be a number from -90 to 90"),
        ({"solar": {"event": "noon", "latitude": 1, "longitude": 10**400}}, "schedule.solar.longitude must be"),
        ({"any": [{"solar": {"event": 1}}]}, ".schedule.any[0].solar.event of type string"),
        ({"solar": {"place": "Rome"}}, "unknown field 'place' in schedule.solar"),
        ({"run_at_start": "yes"}, ".schedule.run_at_start of type bool"),
        (DEEP, "schedule.any[0].any is not possible there"),
    ],
)  # fmt: skip
def test_a_bad_schedule_is_refused_by_its_place(found: dict[str, Any], text: str) -> None:
    with pytest.raises(NatscronError) as caught:
        parse_job({"subject": "a", "schedule": found})
    assert isinstance(caught.value, MalformedInputError | ValidationError)
    assert text in str(caught.value)


def test_every_new_field_of_a_job_is_read_and_shown() -> None:
    data: dict[str, Any] = {
        "subject": "a",
        "schedule": {"every": "1s"},
        "retry": {"attempts": 3, "only": ["timeout", "5*"], "never": ["ValueError"]},
        "paused": True,
        "paused_until": "2026-11-20T10:00:00+01:00",
        "priority": -5,
        "reports": True,
        "pause_after_failures": 3,
        "skip": {"from": "2026-11-20T09:00:00Z", "until": "2026-11-20T09:00:01Z"},
    }
    job = parse_job(data).job
    assert (job.retry.only, job.retry.never) == (("timeout", "5*"), ("ValueError",))
    assert (job.paused_until_ms, job.priority, job.reports, job.pause_after_failures) == (
        1_795_165_200_000,
        -5,
        True,
        3,
    )
    assert job.skip == Skip(1_795_165_200_000, 1_795_165_201_000)
    shown = job_to_json(job)
    assert shown["paused_until"] == "2026-11-20T09:00:00.000Z"
    assert shown["retry"]["never"] == ["ValueError"]
    assert parse_job(shown).job == job
    reset = merge_job(
        job, dict.fromkeys(("retry", "paused", "paused_until", "priority", "reports", "pause_after_failures", "skip"))
    )
    assert reset.job == parse_job({"subject": "a", "schedule": {"every": "1s"}}).job


@pytest.mark.parametrize("text", ["in 2h", " IN  120m "])
def test_the_end_of_a_pause_may_count_from_now(text: str) -> None:
    data = {"subject": "a", "paused": True, "paused_until": text}
    assert parse_job(data, now_ms=5).job.paused_until_ms == 7_200_005
    assert merge_job(Job(id="a"), data, now_ms=5).job.paused_until_ms == 7_200_005


@pytest.mark.parametrize("text", ["in -2h", "in 0s", "in two hours", "in 292y", "1969-01-01T00:00:00Z"])
def test_a_pause_does_not_end_at_what_is_no_instant_to_come(text: str) -> None:
    with pytest.raises(ValidationError, match="paused_until"):
        parse_job({"subject": "a", "paused_until": text}, now_ms=5)


@given(specs())
def test_every_schedule_survives_json(spec: ScheduleSpec) -> None:
    shown = job_to_json(Job(id="a", schedule=spec))
    assert msgspec.json.decode(msgspec.json.encode(shown)) == shown
    assert parse_job(msgspec.json.encode(shown)).job.schedule == spec


@settings(deadline=None)
@given(jobs())
def test_every_job_survives_json_rows_and_merging(job: Job) -> None:
    raw = msgspec.json.encode(job_to_json(job))
    assert parse_job(raw).job == job
    kept = stored(job)
    assert kept.invalid is None
    assert msgspec.structs.replace(
        kept, revision=0, updated_at_ms=0, generation=0, created_at_ms=0, anchor_ms=0, counts_from=Stamp()
    ) == job  # fmt: skip
    # Merging what is shown resets nothing and adds nothing.
    assert merge_job(kept, raw).job == kept


@pytest.mark.parametrize(
    ("fields", "reader"),
    [
        ({"schedule": ScheduleSpec(cron="* * * * *", tz="UTC", run_at_start=True)}, 1),
        ({"paused": True, "overlap": Overlap.SKIP, "retry": Retry(attempts=3)}, 1),
        ({"previous": (Version(schedule=EVERY, since=Stamp(1, 1)), Version(since=Stamp(2, 2)))}, 1),
        ({"schedule": ScheduleSpec(every="1s", jitter="1s")}, 2),
        ({"schedule": ScheduleSpec(any=(EVERY,))}, 2),
        ({"previous": (Version(schedule=ScheduleSpec(rrule="FREQ=DAILY")),)}, 2),
        ({"priority": 1}, 2),
        ({"reports": True}, 2),
        ({"pause_after_failures": 1}, 2),
        ({"paused": True, "paused_until_ms": 5}, 2),
        ({"skip": Skip(1, 2)}, 2),
        ({"retry": Retry(never=("x",))}, 2),
        ({"overlap": Overlap.BUFFER_ONE}, 2),
    ],
)
def test_a_row_needs_the_second_reader_only_for_what_the_first_does_not_know(
    fields: dict[str, Any], reader: int
) -> None:
    row = msgspec.json.decode(encode_row(Job(id="a", **fields)))
    assert row["natscron"]["reader"] == reader


@pytest.mark.parametrize("field", ["rrule", "jitter"])
def test_the_fast_way_leaves_new_fields_to_the_long_way(field: str) -> None:
    job = decode_row("a", b'{"subject":"a","schedule":{"%s":"x"},"natscron":{"reader":2}}' % field.encode(), WRITE)
    assert job.schedule == read_schedule({field: "x"})
    bad = decode_row("a", b'{"subject":"a","schedule":{"max_runs":0},"natscron":{"reader":2}}', WRITE)
    assert bad.invalid is not None
    assert "schedule.max_runs" in bad.invalid


# What somebody hostile sends

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["every", "cron", "any", "except", "calendar", "x"]), inner, max_size=3)
    ),
    max_leaves=10,
)
_SCHEDULE_NAMES = st.sampled_from([*(name.rstrip("_") for name in ScheduleSpec.__struct_fields__), "ANY", "x"])
_JOB_NAMES = st.sampled_from(
    [*("retry", "priority", "reports", "pause_after_failures", "paused_until", "skip", "Paused_Until", "catchup")]
)


@given(
    st.dictionaries(_SCHEDULE_NAMES, _JSON, max_size=4),
    st.dictionaries(_JOB_NAMES, _JSON | st.dictionaries(st.sampled_from(["only", "from", "until"]), _JSON), max_size=4),
)
def test_any_json_in_any_field_raises_nothing_undeclared(schedule: dict[str, Any], fields: dict[str, Any]) -> None:
    found = {"subject": "jobs.a", "schedule": schedule, **fields}
    row = decode_row("jobs.a", msgspec.json.encode(found), WRITE)
    try:
        job = parse_job(found, now_ms=5).job
    except (MalformedInputError, ValidationError):
        assert row.invalid is not None
        return
    assert stored(job).invalid is None


@given(st.dictionaries(st.sampled_from(["dates", "weekly", "ical", "tz", "note", "name", "Name", "x"]), _JSON))
def test_any_json_in_a_calendar_raises_nothing_undeclared(found: dict[str, Any]) -> None:
    with contextlib.suppress(MalformedInputError, ValidationError):
        assert parse_calendar({"name": "a", **found}).calendar.name


# Versions


def edited(old: Job, stamp: Stamp, mark: Mark | None = None, **changes: Any) -> Job:  # noqa: ANN401 - any field
    return stored(successor(old, msgspec.structs.replace(old, **changes), mark), stamp)


def test_a_pause_with_an_end_leaves_the_pause_and_the_schedule_after_it() -> None:
    paused = edited(stored(Job(id="jobs.a", schedule=EVERY)), Stamp(2_000, 9), paused=True, paused_until_ms=5_000)
    again = edited(paused, Stamp(9_000, 12), schedule=ScheduleSpec(every="2s"), paused=False, paused_until_ms=None)
    assert again.previous == (
        Version(schedule=EVERY, since=WRITE),
        Version(schedule=None, since=Stamp(2_000, 9)),
        Version(schedule=EVERY, since=Stamp(5_000, 9)),
    )
    assert again.counts_from == Stamp(9_000, 12)


def test_a_change_of_a_pauses_end_is_a_version_and_of_nothing_else() -> None:
    active = stored(Job(id="jobs.a", schedule=EVERY))
    # Without a pause its end means nothing, and neither do slots left out or a priority.
    assert edited(active, Stamp(2_000, 9), paused_until_ms=5_000, skip=Skip(1, 2), priority=5).previous == ()
    paused = edited(active, Stamp(2_000, 9), paused=True)
    longer = edited(paused, Stamp(3_000, 10), paused_until_ms=5_000)
    assert longer.counts_from == Stamp(3_000, 10)
    assert [version.schedule for version in longer.previous] == [EVERY, None]


@pytest.mark.parametrize(
    ("until_ms", "mark", "left"),
    [
        (5_000, Mark(instant_ms=4_999, jobs_seq=12), [Stamp(2_000, 9), Stamp(5_000, 9)]),
        (5_000, Mark(instant_ms=5_000, jobs_seq=12), [Stamp(5_000, 9)]),
        (5_000, Mark(instant_ms=9_000, jobs_seq=11), [Stamp(5_000, 9)]),
        (5_000, Mark(instant_ms=9_000, jobs_seq=12), []),
        # Ended before its time: neither half holds on to the row until then.
        (99_000, Mark(instant_ms=8_999, jobs_seq=12), [Stamp(2_000, 9), Stamp(99_000, 9)]),
        (99_000, Mark(instant_ms=9_000, jobs_seq=12), []),
        # Over before it began.
        (1_500, Mark(instant_ms=2_000, jobs_seq=9), [Stamp(2_000, 9)]),
    ],
)
def test_a_pauses_versions_are_dropped_when_the_mark_has_passed_them(
    until_ms: int, mark: Mark, left: list[Stamp]
) -> None:
    paused = edited(stored(Job(id="jobs.a", schedule=EVERY)), Stamp(2_000, 9), paused=True, paused_until_ms=until_ms)
    resumed = edited(paused, Stamp(9_000, 12), paused=False)
    later = edited(resumed, Stamp(9_500, 13), mark, note="n")
    assert [version.since for version in later.previous] == left


@pytest.mark.parametrize(
    ("jitter", "instant_ms", "kept"),
    [("10s", 11_999, True), ("10s", 12_000, False), ("soon", 86_401_999, True), ("soon", 86_402_000, False)],
)
def test_a_version_stays_until_its_jitter_has_passed(jitter: str, instant_ms: int, *, kept: bool) -> None:
    first = stored(Job(id="jobs.a", schedule=ScheduleSpec(every="1m", jitter=jitter)))
    second = edited(first, Stamp(2_000, 9), schedule=EVERY)
    third = edited(second, Stamp(3_000, 10), Mark(instant_ms=instant_ms, jobs_seq=10), note="n")
    assert bool(third.previous) is kept


# Open rows

open_rows = st.builds(
    OpenRow,
    run_id=st.text(min_size=1, max_size=5),
    job_id=st.text(min_size=1, max_size=5),
    generation=st.integers(0, 2**60),
    scheduled_at_ms=st.integers(0, 2**50),
    state=st.sampled_from(OpenState),
    trigger=st.sampled_from(Trigger),
    delivery=st.sampled_from([word for word in Delivery if word is not Delivery.HANDLER]),
    attempt=st.integers(1, 1_000),
    next_at_ms=st.integers(0, 2**50),
    deadline_ms=st.integers(0, 2**50),
    epoch=st.integers(0, 2**50),
    payload=st.just(msgspec.UNSET) | st.sampled_from([{"reader": 9}, "x", None]),
    overlap=st.none() | st.sampled_from(Overlap),
    about=st.just("") | st.text(max_size=3),
    report=st.none()
    | st.builds(
        Report, status=st.sampled_from([RunStatus.COMPLETED, RunStatus.FAILED]), error=st.none() | st.just("e")
    ),
    backfill=st.none() | st.builds(Backfill, from_ms=st.integers(0, 9), to_ms=st.integers(9, 20), done=st.just(2)),
)


@given(open_rows)
def test_every_open_row_survives_the_trip(row: OpenRow) -> None:
    found = state.decode_row(state.encode_row(row))
    assert msgspec.structs.replace(found, reader=1) == row
    first = row.state in {OpenState.PENDING, OpenState.RUNNING, OpenState.RETRY}
    plain = first and (row.overlap, row.about, row.report, row.backfill) == (None, "", None, None)
    assert found.reader == (1 if plain else 2)
    assert state.encode_row(found) == state.encode_row(row)


def test_a_row_that_asks_for_a_later_reader_keeps_asking() -> None:
    row = OpenRow(run_id="r", job_id="a", generation=1, scheduled_at_ms=5, state=OpenState.RUNNING, reader=3)
    with pytest.raises(state.NewerRecordError, match="reader version 3"):
        state.decode_row(state.encode_row(row))
