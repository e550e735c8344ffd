"""Commands about calendars: ``calendar put``, ``calendar get``, ``calendar list``, ``calendar delete``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import rich_click as click

from natscron.cli.client import JSON_ERRORS, ApiClient, ApiError, Body
from natscron.cli.output import when
from natscron.cli.session import Session, complete_calendar, examples, with_session
from natscron.cli.write import warn

__all__ = ["calendar"]

_NOT_FOUND: Final = "404"
_PAGES_MAX: Final = 1_000


@click.group()
@examples(
    "nats-cron calendar put holidays --dates 12-25,12-26 --dates 2027-12-24/2028-01-01 --tz Europe/Berlin",
    "nats-cron add reports.daily '0 9 * * *' --except-calendar holidays",
    "nats-cron calendar list",
)
def calendar() -> None:
    """Calendars: times at which the jobs that name them do not run.

    A job names one with --except-calendar; changing the calendar changes all that name it.
    """


@calendar.command()
@click.argument("calendar_name", metavar="NAME", shell_complete=complete_calendar)
@click.argument("path", metavar="[FILE]", required=False)
@click.option("--dates", "--date", multiple=True, metavar="DATES", help="Days or ranges, by commas; repeatable.")
@click.option(
    "--weekly", multiple=True, metavar="WINDOW", help="Such as 'SAT,SUN' or 'MON-FRI 18:00-08:00'; repeatable."
)
@click.option("--ical", metavar="FILE", help="An iCalendar file, whose events count.")
@click.option("--tz", metavar="ZONE", help="Zone of all of them, such as Europe/Berlin. [default: UTC]")
@click.option("--note", metavar="TEXT", help="What it is for.")
@click.option("--expected-revision", type=int, metavar="N", help="Refuse if it changed since; 0: if it is there.")
@with_session()
@examples(
    "nats-cron calendar put holidays --dates 12-25,12-26 --dates 2027-12-24/2028-01-01 --tz Europe/Berlin",
    "nats-cron calendar put nights --weekly '* 22:00-06:00' --weekly 'SAT,SUN'",
    "nats-cron calendar put school --ical school.ics --tz Europe/Paris",
    "nats-cron calendar put holidays holidays.json",
)
def put(  # noqa: PLR0913 - one parameter an option
    session: Session,
    calendar_name: str,
    path: str | None,
    *,
    dates: tuple[str, ...],
    weekly: tuple[str, ...],
    ical: str | None,
    tz: str | None,
    note: str | None,
    expected_revision: int | None,
) -> None:
    """Store a calendar, in place of one that is there: from FILE (JSON), or from flags.

    A date is 2027-12-25, 12-25 (every year), or 2027-12-24/2028-01-01 (both included).
    """
    given: Body = {"tz": tz, "note": note, "expected_revision": expected_revision}
    body: Body = {key: value for key, value in given.items() if value is not None}
    if path is not None and (dates or weekly or ical):
        raise click.UsageError("give a FILE, or --dates, --weekly and --ical; not both")
    if path is not None:
        body = _from_file(path) | body
    elif not (dates or weekly or ical):
        raise click.UsageError("give a FILE, or --dates, --weekly or --ical")
    if dates:
        body["dates"] = [date.strip() for text in dates for date in text.split(",") if date.strip()]
        if not body["dates"]:
            raise click.BadParameter("it is empty; give days such as 2027-12-25 or 12-25", param_hint="--dates")
    if weekly:
        body["weekly"] = [_window(text) for text in weekly]
    if ical:
        body["ical"] = _read(ical).decode(errors="replace")
    reply = session.run(lambda client: client.call("calendars.put", body | {"name": calendar_name}))
    if session.out.as_json:
        session.out.data({"name": calendar_name} | reply)
        return
    session.out.line(f"Calendar '{calendar_name}' {reply.get('status', 'stored')}")
    if reply.get("jobs"):
        session.out.line(f"  Jobs that refer to it: {reply['jobs']}")
    warn(session.out, reply)


@calendar.command()
@click.argument("calendar_name", metavar="NAME", shell_complete=complete_calendar)
@with_session()
@examples(
    "nats-cron calendar get holidays",
    "nats-cron calendar get holidays > holidays.json",
)
def get(session: Session, calendar_name: str) -> None:
    """Show a calendar, as JSON, which `calendar put` takes."""
    session.out.data(session.run(lambda client: client.call("calendars.get", {"name": calendar_name})))


@calendar.command("list")
@with_session()
@examples(
    "nats-cron calendar list",
    "nats-cron calendar list --json",
)
def list_(session: Session) -> None:
    """List the calendars."""
    found = session.run(_all)
    if session.out.as_json:
        session.out.data(found)
    elif found:
        now_ms = session.clock.now_ms()
        session.out.table(("CALENDAR", "JOBS", "CHANGED", "CONTENT", "NOTE"), [_row(one, now_ms) for one in found])
    else:
        session.out.line("No calendars found")


@calendar.command()
@click.argument("names", shell_complete=complete_calendar, metavar="NAME...", nargs=-1, required=True)
@click.option("--if-exists", is_flag=True, help="An unknown calendar is no error.")
@with_session()
@examples(
    "nats-cron calendar delete holidays",
)
def delete(session: Session, names: tuple[str, ...], *, if_exists: bool) -> int:
    """Delete calendars that no job refers to."""

    async def work(client: ApiClient) -> list[Body]:
        results: list[Body] = []
        for name in names:
            try:
                results.append({"name": name} | await client.call("calendars.delete", {"name": name}))
            except ApiError as error:
                if if_exists and error.status == _NOT_FOUND:
                    results.append({"name": name, "status": "absent"})
                else:
                    results.append({"name": name, "error": str(error), "code": error.status})
        return results

    results = session.run(work)
    if session.out.as_json:
        session.out.data(results[0] if len(results) == 1 else results)
    for result in results:
        if "error" in result:
            if not session.out.as_json:
                session.out.error(result["error"])
        elif result["status"] == "absent":
            session.out.line(f"No such calendar: {result['name']}")
        else:
            session.out.line(f"Calendar deleted: {result['name']}")
    return 1 if any("error" in result for result in results) else 0


def _window(text: str) -> dict[str, str]:
    """``MON-FRI 18:00-08:00``, or only the days, or only the times."""
    window: dict[str, str] = {}
    for part in text.split():
        if ":" in part:
            begin, dash, end = part.partition("-")
            if not dash or "start" in window:
                raise click.BadParameter(f"{text!r} is not DAYS or DAYS HH:MM-HH:MM", param_hint="--weekly")
            window |= {"start": begin, "end": end}
        elif "days" in window:
            raise click.BadParameter(f"{text!r} is not DAYS or DAYS HH:MM-HH:MM", param_hint="--weekly")
        else:
            window["days"] = part
    if not window:
        raise click.BadParameter("it is empty; give DAYS or DAYS HH:MM-HH:MM", param_hint="--weekly")
    return window


def _from_file(path: str) -> Body:
    try:
        found: Any = msgspec.json.decode(_read(path))
    except JSON_ERRORS as error:
        raise click.ClickException(f"{path}: not JSON: {error}; an iCalendar file goes with --ical") from error
    if not isinstance(found, dict):
        raise click.ClickException(f"{path}: a calendar is a JSON object")
    # Of another calendar, or of an earlier state of this one: the name on the command line is meant.
    return {key: value for key, value in found.items() if key.lower() not in {"name", "revision", "updated_at", "jobs"}}


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes() if path != "-" else sys.stdin.buffer.read()
    except OSError as error:
        raise click.ClickException(f"reading {path}: {error.strerror}") from error


async def _all(client: ApiClient) -> list[Body]:
    found: list[Body] = []
    query: Body = {}
    for _ in range(_PAGES_MAX):
        page = await client.call("calendars.list", query or None)
        found += page.get("calendars") or []
        if not page.get("next"):
            break
        query = {"cursor": page["next"]}
    return found


def _row(one: Body, now_ms: int) -> tuple[str, ...]:
    return (
        str(one.get("name")),
        str(one.get("jobs", "-")),
        when(one.get("updated_at"), now_ms),
        f"invalid: {one['invalid']}" if one.get("invalid") else _content(one),
        str(one.get("note") or "-"),
    )


def _content(one: Body) -> str:
    parts = [_count(one.get("dates"), "date"), _count(one.get("weekly"), "weekly window")]
    if one.get("ical"):
        parts.append("iCalendar")
    zone = f" [{one['tz']}]" if one.get("tz") else ""
    return (", ".join(part for part in parts if part) or "-") + zone


def _count(items: Sequence[object] | None, what: str) -> str:
    return f"{len(items)} {what}{'s' if len(items) > 1 else ''}" if items else ""
