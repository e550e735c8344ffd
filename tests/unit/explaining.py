"""What tests of explanations share: jobs with calendars, records, and what is told of them."""

from typing import Any

from natscron.codec import text_to_ms
from natscron.engine.explain import Asked, Explanation, Line, explain
from natscron.engine.table import Entry
from natscron.ids import keyed_run_id
from natscron.model import (
    Calendar,
    Job,
    Mark,
    Reason,
    Run,
    RunStatus,
    ScheduleSpec,
    Stamp,
    Trigger,
)
from natscron.schedule import compile_schedule

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
BORN = text_to_ms("2027-01-01T00:00:00Z")
NOW = text_to_ms("2027-06-15T12:00:30Z")


def at(text: str) -> int:
    return text_to_ms(text)


def entry_of(spec: ScheduleSpec, calendars: tuple[Calendar, ...] = (), **more: Any) -> Entry:  # noqa: ANN401 - fields
    fields: dict[str, Any] = {"generation": 3, "created_at_ms": BORN, "anchor_ms": BORN}
    fields |= {"counts_from": Stamp(BORN, 3)} | more
    job = Job(id="a.b", schedule=spec, **fields)
    known = {calendar.name: calendar.spec for calendar in calendars}
    compiled = compile_schedule(spec, anchor_ms=job.anchor_ms, seed=job.id, lenient=True, calendars=known)
    return Entry(job, compiled.schedule, compiled.warnings, calendars)


def told(entry: Entry, *runs: Run, since: int = NOW - 10 * MINUTE, **more: Any) -> Explanation:  # noqa: ANN401 - fields
    asked: dict[str, Any] = {
        "until_ms": NOW,
        "now_ms": NOW,
        "mark": Mark(instant_ms=NOW, jobs_seq=100),
        "count": 3,
    } | more
    return explain(Asked(entry=entry, runs=runs, since_ms=since, **asked))


def ran(slot: int, status: RunStatus = RunStatus.COMPLETED, **more: Any) -> Run:  # noqa: ANN401 - fields
    trigger = more.get("trigger", Trigger.SCHEDULE)
    fields: dict[str, Any] = {
        "run_id": keyed_run_id(slot, trigger),
        "scheduled_at_ms": slot,
        "started_at_ms": slot + 2,
        "finished_at_ms": slot + 12,
        "lateness_ms": 2,
    }
    return Run(job="a.b", status=status, **(fields | more))


def missed(first: int, last: int, count: int, reason: Reason) -> Run:
    return Run(
        job="a.b",
        status=RunStatus.SKIPPED,
        from_ms=first,
        to_ms=last,
        count=count,
        reason=reason,
        finished_at_ms=last + HOUR,
    )


def shape(lines: tuple[Line, ...]) -> list[tuple[str, str]]:
    return [(line.what.value, line.reason) for line in lines]


EVERY_FIVE = ScheduleSpec(cron="*/5 * * * *")
SLOTS = [at("2027-06-15T11:55:00Z"), at("2027-06-15T12:00:00Z")]
