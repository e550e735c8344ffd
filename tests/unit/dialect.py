"""Hypothesis strategies for schedules, jobs and calendars of the whole dialect."""

from typing import Any

import msgspec
from hypothesis import strategies as st

from natscron.durations import format_duration
from natscron.model import (
    CalendarSpec,
    CatchUp,
    CatchUpPolicy,
    Delivery,
    Job,
    Overlap,
    Retry,
    ScheduleSpec,
    Skip,
    Solar,
    Weekly,
)

__all__ = ["calendar_specs", "jobs", "specs"]

texts = st.text(min_size=1, max_size=12)
instants_ms = st.integers(min_value=0, max_value=253_402_300_799_999)
spans_ms = st.integers(min_value=1, max_value=366 * 86_400_000)
durations = st.integers(min_value=1, max_value=10**15).map(format_duration)
instants = st.sampled_from(
    ["2026-11-20T09:00:00Z", "2026-11-20T10:00:00.5+01:00", "1970-01-01T00:00:00Z", "in 5m", "never", " "]
)
words = st.from_regex(r"[A-Za-z0-9_.:-]{1,10}\*?", fullmatch=True)
solars = st.builds(
    Solar,
    event=texts,
    latitude=st.floats(-90, 90),
    longitude=st.floats(-180, 180),
    offset=st.none() | durations,
)


def _some(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


_KINDS: dict[str, st.SearchStrategy[Any]] = {
    "every": durations | texts,
    "cron": st.sampled_from(["* * * * *", "0 9 * * MON-FRI", "@daily", "0 0 9 * * *", "TZ=UTC 0 9 * * *"]) | texts,
    "at": instants,
    "rrule": texts,
    "solar": solars,
    "kind": st.sampled_from(["myapp.lunar", "plain"]),
}
_BESIDE: dict[str, st.SearchStrategy[Any]] = {"tz": texts, "start_at": instants, "dst_gap": texts, "dst_fold": texts}
_WHOLE: dict[str, st.SearchStrategy[Any]] = {
    **_BESIDE,
    "run_at_start": st.just(value=True),
    "not_before": instants,
    "not_after": instants,
    "max_runs": st.integers(1, 10_000),
    "last_slot": instants,
    "jitter": durations,
}


@st.composite
def _members(draw: st.DrawFn, *, calendars: bool) -> ScheduleSpec:
    if calendars and draw(st.booleans()):
        return ScheduleSpec(calendar=draw(texts))
    return ScheduleSpec(**draw(_kind()), **draw(_some(_BESIDE)))


@st.composite
def _kind(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(list(_KINDS)))
    found = {name: draw(_KINDS[name])}
    if name == "kind" and draw(st.booleans()):
        found["config"] = draw(texts)
    return found


@st.composite
def specs(draw: st.DrawFn) -> ScheduleSpec:
    """Any schedule that can be written: simple ones often, all fields now and then."""
    found = draw(_kind())
    if draw(st.booleans()):
        return ScheduleSpec(**found)
    if draw(st.booleans()):
        found = {"any": draw(st.lists(_members(calendars=False), min_size=1, max_size=3).map(tuple))}
    if draw(st.booleans()):
        found["except_"] = draw(st.lists(_members(calendars=True), min_size=1, max_size=3).map(tuple))
    found.update(draw(_some(_WHOLE)))
    return ScheduleSpec(**found)


_EXTRA = st.dictionaries(st.sampled_from(["colour", "x-y", "größe"]), st.integers() | texts, max_size=2)
_LABELS = st.dictionaries(texts, texts, max_size=2)
_SKIPS = st.tuples(instants_ms, instants_ms).map(lambda ends: Skip(min(ends), max(ends)))


def _job(fields: dict[str, Any]) -> Job:
    return Job(**fields)


@st.composite
def jobs(draw: st.DrawFn) -> Job:
    """Any job that can be written, without what the store owns."""
    percent = draw(st.integers(0, 100))
    retry = Retry(
        attempts=draw(st.integers(1, 1_000)),
        backoff_ms=draw(spans_ms),
        factor=draw(st.floats(1, 1_000)),
        jitter=percent / 100,
        only=tuple(draw(st.lists(words, max_size=3))),
        never=tuple(draw(st.lists(words, max_size=3))),
    )
    catchup = CatchUp(policy=draw(st.sampled_from(CatchUpPolicy)), window_ms=draw(spans_ms), limit=draw(st.just(7)))
    fields = draw(
        _some(
            {
                "schedule": specs(),
                "payload": texts | st.lists(st.integers(), max_size=2),
                "headers": st.dictionaries(st.sampled_from(["X-A", "b"]), st.just("v"), max_size=2),
                "delivery": st.sampled_from([word for word in Delivery if word is not Delivery.HANDLER]),
                "catchup": st.just(catchup),
                "overlap": st.sampled_from(Overlap),
                "timeout_ms": spans_ms,
                "retry": st.just(retry),
                "labels": _LABELS,
                "paused": st.booleans(),
                "paused_until_ms": instants_ms,
                "note": texts,
                "priority": st.integers(-100, 100),
                "reports": st.booleans(),
                "pause_after_failures": st.integers(0, 1_000),
                "skip": _SKIPS,
                "extra": _EXTRA,
                "old_format": st.booleans(),
            }
        )
    )
    return msgspec.structs.replace(_job(fields | {"id": "jobs.a"}))


@st.composite
def calendar_specs(draw: st.DrawFn) -> CalendarSpec:
    """Any content of a calendar that can be written."""
    weekly = st.builds(Weekly, days=texts, start=texts, end=texts)
    return CalendarSpec(
        dates=tuple(draw(st.lists(texts, max_size=3))),
        weekly=tuple(draw(st.lists(weekly, max_size=3))),
        ical=draw(st.none() | texts),
        tz=draw(st.none() | texts),
        note=draw(st.text(max_size=5)),
    )
