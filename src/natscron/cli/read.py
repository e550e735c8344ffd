"""Commands that look at jobs: ``get``, ``list``, ``next``."""

from datetime import datetime
from typing import Any, Final

import rich_click as click

from natscron.cli.arguments import looks_like_schedule, parse_schedule
from natscron.cli.client import ApiClient, Body, NoAnswerError
from natscron.cli.output import instant_ms, rfc3339, schedule_text, span, when
from natscron.cli.session import Session, complete_subject, examples, with_session
from natscron.errors import InvalidScheduleError

__all__ = ["get", "list_", "next_"]

_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MARKS: Final = {"moved": "moved by a clock change", "repeated": "second pass of a clock change"}


@click.command()
@click.argument("subject", shell_complete=complete_subject)
@with_session()
@examples(
    "nats-cron get reports.daily",
)
def get(session: Session, subject: str) -> None:
    """Show a job, as JSON."""
    job = session.run(lambda client: client.call("jobs.get", {"subject": subject}))
    session.out.data(dict(sorted(job.items())))


@click.command("list", aliases=["ls"])
@click.argument("pattern", required=False)
@click.option("--state", type=click.Choice(["active", "paused", "done", "invalid"]), help="Only jobs in this state.")
@click.option("--label", metavar="K=V", help="Only jobs with this label; K alone: with any value.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many.")
@with_session()
@examples(
    "nats-cron list",
    "nats-cron list 'reports.>' --state paused",
    "nats-cron list --label team=billing --json",
)
def list_(session: Session, pattern: str | None, state: str | None, label: str | None, limit: int | None) -> None:
    """List jobs with their schedules and next runs.

    The output of --json can be given to `create`.
    """
    jobs = session.run(lambda client: client.jobs(pattern=pattern, state=state, label=label, limit=limit))
    if session.out.as_json:
        session.out.data(jobs)
        return
    if not jobs:
        session.out.line("No jobs found")
        return
    now_ms = session.clock.now_ms()
    rows = [_row(job, now_ms) for job in jobs]
    session.out.table(("SUBJECT", "SCHEDULE", "STATE", "NEXT RUN", "LAST RUN"), rows)


@click.command("next")
@click.argument("target", shell_complete=complete_subject, metavar="SCHEDULE|SUBJECT")
@click.option("--count", "-n", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many runs.")
@click.option("--after", metavar="INSTANT", help="Count from here, RFC 3339. [default: now]")
@click.option("--tz", metavar="ZONE", help="Zone of a cron schedule, such as Europe/Berlin.")
@click.option("--dst-gap", type=click.Choice(["run_after", "skip", "shift"]), help="Times that a clock change skips.")
@click.option("--dst-fold", type=click.Choice(["first", "last", "both"]), help="Times that a clock change repeats.")
@click.option("--job", is_flag=True, help="TARGET is a job's subject even if it looks like a schedule.")
@with_session()
@examples(
    "nats-cron next '0 9 * * MON' --tz Europe/Berlin -n 5",
    "nats-cron next '30 2 * * *' --tz America/New_York --after 2027-03-13T00:00:00Z",
    "nats-cron next 90m",
    "nats-cron next 'FREQ=MONTHLY;BYDAY=-1FR' --tz Europe/Paris",
    'nats-cron next \'{"any": [{"cron": "0 9 * * *"}, {"cron": "0 */7 * * *"}], "except": [{"cron": "* * * * SUN"}]}\'',
    "nats-cron next reports.daily",
)
def next_(  # noqa: PLR0913 - one parameter an option
    session: Session,
    target: str,
    *,
    count: int,
    after: str | None,
    tz: str | None,
    dst_gap: str | None,
    dst_fold: str | None,
    job: bool,
) -> None:
    """Show when a schedule, or a stored job, runs next.

    For a schedule no server is needed, unless it names a calendar. Runs that a clock change moves or repeats are
    marked.
    """
    now_ms = session.clock.now_ms()
    after_ms = _after(after, now_ms)
    if looks_like_schedule(target) and not job:
        rules = {"tz": tz, "dst_gap": dst_gap, "dst_fold": dst_fold}
        spec = parse_schedule(target) | {key: value for key, value in rules.items() if value is not None}
        found = (
            session.run(lambda client: _ask(client, {"schedule": spec}, after_ms, count))
            if _names_calendars(spec)
            else _offline(spec, after_ms, count, anchor_ms=now_ms)
        )
    else:
        if tz or dst_gap or dst_fold:
            raise click.UsageError("--tz, --dst-gap and --dst-fold go with a schedule; a job has its own")
        found = session.run(lambda client: _of_job(client, target, after_ms, count))
    _show(session, found, now_ms)


def _row(job: Body, now_ms: int) -> tuple[str, str, str, str, str]:
    schedule = job.get("schedule")
    zone = schedule.get("tz") if isinstance(schedule, dict) else None
    zone = zone if isinstance(zone, str) else None
    state = str(job.get("state") or "-")
    last = job.get("last_run")
    # The last run may be a run record, or an instant as the Go version has it.
    happened = last.get("scheduled_at") or last.get("started_at") if isinstance(last, dict) else last
    next_run = when(job.get("next_run"), now_ms, zone)
    return str(job.get("subject", "")), schedule_text(schedule), state, next_run, when(happened, now_ms, zone)


def _after(text: str | None, now_ms: int) -> int:
    if text is None:
        return now_ms
    at_ms = instant_ms(text)
    if at_ms is None:
        raise click.BadParameter(
            f"{text!r} is not an instant; write RFC 3339 with an offset, such as 2027-01-31T09:00:00Z",
            param_hint="--after",
        )
    return at_ms


def _offline(schedule: dict[str, Any], after_ms: int, count: int, *, anchor_ms: int) -> Body:
    from natscron.codec import read_schedule  # noqa: PLC0415 - most commands need none
    from natscron.schedule import compile_schedule, describe, preview, resolve_spec  # noqa: PLC0415 - likewise

    spec = read_schedule(schedule)
    if spec is None:
        raise InvalidScheduleError("invalid schedule: it is empty")
    spec = resolve_spec(spec, anchor_ms, anchor_ms=anchor_ms)
    warnings = compile_schedule(spec, anchor_ms=anchor_ms).warnings
    slots = preview(spec, after_ms, count, anchor_ms=anchor_ms)
    return {
        "slots": [
            {"at": slot.utc, "local": slot.local, "mark": slot.mark, **({"due": slot.due} if slot.due else {})}
            for slot in slots
        ],
        "description": describe(spec),
        "warnings": list(warnings),
    }


def _names_calendars(schedule: dict[str, Any]) -> bool:
    without = schedule.get("except")
    return isinstance(without, list) and any(isinstance(one, dict) and "calendar" in one for one in without)


async def _ask(client: ApiClient, about: Body, after_ms: int, count: int) -> Body:
    return await client.call("jobs.preview", {**about, "count": count, "after": rfc3339(after_ms)})


async def _of_job(client: ApiClient, subject: str, after_ms: int, count: int) -> Body:
    try:
        found = await _ask(client, {"subject": subject}, after_ms, count)
    except NoAnswerError:
        # The Go version has no preview. Its jobs are simple enough to be worked out here; if it is not there either,
        # this second question fails with the same words.
        job = await client.call("jobs.get", {"subject": subject})
    else:
        return found
    schedule = {key: value for key, value in (job.get("schedule") or {}).items() if value}
    return _offline(schedule, after_ms, count, anchor_ms=instant_ms(job.get("created_at")) or after_ms)


def _show(session: Session, found: Body, now_ms: int) -> None:
    slots = found.get("slots") or []
    if session.out.as_json:
        session.out.data({"description": found.get("description"), "slots": slots})
        return
    if found.get("description"):
        session.out.line(str(found["description"]))
    for warning in found.get("warnings") or ():
        session.out.warn(str(warning))
    if not slots:
        session.out.line("No further runs")
        return
    rows = []
    for slot in slots:
        at_ms = instant_ms(slot.get("at")) or 0
        away = f"in {span(at_ms - now_ms)}" if at_ms > now_ms else f"{span(now_ms - at_ms)} ago"
        mark = str(slot.get("mark") or "")
        due_ms = instant_ms(slot.get("due"))
        notes = [_MARKS.get(mark, mark), "" if due_ms is None else f"{span(due_ms - at_ms)} later by jitter"]
        rows.append((_wall(str(slot.get("local") or slot.get("at"))), away, ", ".join(filter(None, notes))))
    session.out.table(("NEXT RUN", "AWAY", ""), rows)


def _wall(text: str) -> str:
    """An instant on the clock of its own offset, with the day of the week."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return text
    day, time = at.isoformat(sep=" ", timespec="milliseconds" if at.microsecond else "seconds").split(" ", 1)
    return f"{_DAYS[at.weekday()]} {day} {time[:-6]} {time[-6:]}"
