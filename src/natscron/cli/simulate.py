"""The command that runs a job file on virtual time: ``simulate``."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import rich_click as click

from natscron.cli.client import JSON_ERRORS
from natscron.cli.jobfile import Found, read_jobs
from natscron.cli.output import Output, instant_ms, rfc3339, shown_at, span
from natscron.cli.session import DurationType, Session, examples, with_session
from natscron.errors import NatscronError, UnknownCalendarError

if TYPE_CHECKING:
    from natscron.engine.simulate import Event, Outage
    from natscron.engine.table import Entry
    from natscron.model import CalendarSpec

__all__ = ["simulate"]

_PROGRESS_EVERY: Final = 20_000
_REPLY_ONLY: Final = frozenset({"generation", "error", "last_run", "next_run"})
_MOST: Final = 1_000_000
_STORE_IT: Final = ": store it first"
_DAY_MS: Final = 86_400_000


@click.command()
@click.argument("path", metavar="FILE")
@click.option("--from", "from_", metavar="INSTANT", help="Where it begins, RFC 3339. [default: now]")
@click.option("--to", metavar="DURATION|INSTANT", help="Where it ends: 24h (after --from), or RFC 3339. [default: 24h]")
@click.option(
    "--duration",
    "durations",
    multiple=True,
    metavar="[JOB=]DURATION",
    help="How long a run takes, of all jobs or of one; repeatable. [default: 0s]",
)
@click.option(
    "--outage",
    "outages",
    multiple=True,
    metavar="FROM/TO",
    help="Nobody leads then; RFC 3339, or TO as a duration; repeatable.",
)
@click.option(
    "--calendar", "calendars", multiple=True, metavar="NAME=FILE", help="A calendar: its JSON, or an .ics file."
)
@click.option("--limit", type=click.IntRange(1, _MOST), default=10_000, show_default=True, help="Events at most.")
@with_session()
@examples(
    "nats-cron simulate jobs.json",
    "nats-cron simulate jobs.json --from 2027-03-27T00:00:00Z --to 48h",
    "nats-cron simulate jobs.json --from 2027-01-01T00:00:00Z --to 1h --duration 30s --duration slow.job=7m",
    "nats-cron simulate jobs.json --from 2027-01-01T00:00:00Z --to 24h --outage 2027-01-01T06:00:00Z/3h",
    "nats-cron list --json | nats-cron simulate - --from 2027-12-24T00:00:00Z --to 72h --calendar xmas=xmas.ics",
)
def simulate(  # noqa: PLR0913 - one parameter an option
    session: Session,
    path: str,
    *,
    from_: str | None,
    to: str | None,
    durations: tuple[str, ...],
    outages: tuple[str, ...],
    calendars: tuple[str, ...],
    limit: int,
) -> int:
    """Run a job file on virtual time, and show what would run and what would not.

    No service is needed, and nothing is sent. FILE is as for `create`: one JSON object, an array of them, or one
    object a line; - reads standard input. Jobs that are wrong are reported with their place, the others go on,
    and the exit code is 1. With --json there is one event a line.
    """
    from natscron.engine.simulate import Simulation  # noqa: PLC0415 - loads the planner, for this command alone

    from_ms = session.clock.now_ms() if from_ is None else _instant(from_, "--from")
    to_ms = from_ms + _DAY_MS if to is None else _end(to, from_ms, "--to")
    every_ms, by_job = _durations(durations)
    assumed = [_outage(text) for text in outages]
    known = _calendars(calendars)
    entries, wrong = _entries(read_jobs(path).jobs, from_ms, known)
    for place, why in wrong:
        session.out.error(f"{place}: {why}", "invalid")
    for entry in entries:
        for warning in entry.warnings:
            session.out.warn(f"{entry.job.id}: {warning}")
    if unknown := sorted(by_job.keys() - {entry.job.id for entry in entries}):
        session.out.warn(f"--duration names jobs that are not in the file: {', '.join(unknown)}")
    run = Simulation(
        entries,
        from_ms=from_ms,
        to_ms=to_ms,
        duration_ms=every_ms,
        durations_ms=by_job,
        outages=assumed,
        limit=limit,
    )
    counts = _print(session.out, _watched(run.events(), from_ms, to_ms))
    if run.cut_ms is not None:
        session.out.warn(f"there is more after {shown_at(run.cut_ms)}: only {limit} events are shown, see --limit")
    total = ", ".join(f"{number} {word}" for word, number in sorted(counts.items())) or "nothing happens"
    session.out.line(f"{len(entries)} job(s), {shown_at(from_ms)} to {shown_at(run.cut_ms or to_ms)}: {total}")
    return 1 if wrong else 0


# What is given.


def _instant(text: str, flag: str) -> int:
    at_ms = instant_ms(text)
    if at_ms is None or at_ms < 0:
        raise click.BadParameter(
            f"{text!r} is not an instant; write RFC 3339 with an offset, such as 2027-01-31T09:00:00Z", param_hint=flag
        )
    return at_ms


def _end(text: str, from_ms: int, flag: str) -> int:
    """An instant, or a duration after another one."""
    at_ms = instant_ms(text)
    if at_ms is None:
        at_ms = from_ms + _duration(text, flag)
    if at_ms <= from_ms:
        raise click.BadParameter(f"{text!r} must lie after {rfc3339(from_ms)}", param_hint=flag)
    return at_ms


def _duration(text: str, flag: str) -> int:
    try:
        return DurationType().convert(text, None, None)
    except click.UsageError as error:
        raise click.BadParameter(error.message, param_hint=flag) from error


def _durations(texts: Sequence[str]) -> tuple[int, dict[str, int]]:
    every, by_job = 0, {}
    for text in texts:
        job, equals, value = text.rpartition("=")
        if equals:
            by_job[job] = _duration(value, "--duration")
        else:
            every = 0 if value in {"0", "0s"} else _duration(value, "--duration")
    return every, by_job


def _outage(text: str) -> "Outage":
    from natscron.engine.simulate import Outage  # noqa: PLC0415 - see simulate

    first, slash, last = text.partition("/")
    if not slash:
        raise click.BadParameter(
            f"{text!r} is not FROM/TO; write it as 2027-01-31T09:00:00Z/2027-01-31T10:00:00Z, or with TO as 1h",
            param_hint="--outage",
        )
    from_ms = _instant(first, "--outage")
    return Outage(from_ms, _end(last, from_ms, "--outage"))


def _calendars(texts: Sequence[str]) -> "dict[str, CalendarSpec]":
    if not texts:
        return {}
    from natscron.model import CalendarSpec  # noqa: PLC0415 - see simulate
    from natscron.schedule.calendar import compile_calendar  # noqa: PLC0415 - see simulate

    found: dict[str, CalendarSpec] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not name or not path:
            raise click.BadParameter(f"{text!r} is not NAME=FILE", param_hint="--calendar")
        try:
            data = Path(path).read_bytes()
            if data.lstrip()[:15].upper() == b"BEGIN:VCALENDAR":
                found[name] = CalendarSpec(ical=data.decode())
            else:
                given = msgspec.json.decode(data)
                plain = {key: value for key, value in given.items() if key in CalendarSpec.__struct_fields__}
                found[name] = msgspec.convert(plain, CalendarSpec)
            compile_calendar(found[name])
        except OSError as error:
            raise click.ClickException(f"reading calendar: {path}: {error.strerror}") from error
        except (*JSON_ERRORS, msgspec.ValidationError, AttributeError, NatscronError) as error:
            raise click.ClickException(f"calendar {name} ({path}): {error}") from error
    return found


def _entries(
    found: Iterable[Found], from_ms: int, calendars: "Mapping[str, CalendarSpec]"
) -> "tuple[list[Entry], list[tuple[str, str]]]":
    entries: dict[str, Entry] = {}
    wrong: list[tuple[str, str]] = []
    for one in found:
        if one.job is None:
            wrong.append((one.place, one.wrong))
            continue
        try:
            entry = _entry(one.job, from_ms, calendars)
        except UnknownCalendarError as error:
            text = str(error).replace(_STORE_IT, "")
            wrong.append((one.place, f"{text}; give it with --calendar NAME=FILE"))
            continue
        except NatscronError as error:
            wrong.append((one.place, str(error)))
            continue
        if entry.job.id in entries:
            wrong.append((one.place, f"job {entry.job.id!r} is in the file twice; the first one counts"))
            continue
        entries[entry.job.id] = entry
    return list(entries.values()), wrong


def _entry(given: Mapping[str, object], from_ms: int, calendars: "Mapping[str, CalendarSpec]") -> "Entry":
    """The job as if it were saved at ``from_ms``, or at the ``created_at`` that a listed job has. Raises."""
    from natscron.codec import parse_job  # noqa: PLC0415 - see simulate
    from natscron.engine.calendars import calendars_used  # noqa: PLC0415 - see simulate
    from natscron.engine.simulate import Simulation  # noqa: PLC0415 - see simulate
    from natscron.engine.table import Entry  # noqa: PLC0415 - see simulate
    from natscron.errors import InvalidScheduleError  # noqa: PLC0415 - see simulate
    from natscron.model import Calendar, Stamp  # noqa: PLC0415 - see simulate
    from natscron.schedule import compile_schedule, resolve_spec  # noqa: PLC0415 - see simulate

    parsed = parse_job({key: value for key, value in given.items() if key not in _REPLY_ONLY})
    job = parsed.job
    if job.schedule is None:
        raise InvalidScheduleError("the job has no schedule")
    created_ms = instant_ms(given.get("created_at"))
    before = created_ms is not None and 0 <= created_ms < from_ms
    anchor_ms = created_ms if created_ms is not None and before else from_ms
    spec = resolve_spec(job.schedule, anchor_ms, anchor_ms=anchor_ms, seed=job.id, calendars=calendars)
    compiled = compile_schedule(spec, anchor_ms=anchor_ms, seed=job.id, calendars=calendars)
    seq = Simulation.seq_of(created_before=before)
    job = msgspec.structs.replace(
        job,
        schedule=spec,
        anchor_ms=anchor_ms,
        created_at_ms=anchor_ms,
        generation=seq,
        revision=seq,
        counts_from=Stamp(anchor_ms, seq),
    )
    used = tuple(Calendar(name=name, spec=calendars[name]) for name in calendars_used(job))
    return Entry(job, compiled.schedule, (*parsed.warnings, *compiled.warnings), used)


# What is shown.


def _watched(events: "Iterable[Event]", from_ms: int, to_ms: int) -> "Iterable[Event]":
    """The events; where a person waits for many of them, how far it is, on stderr."""
    shows = sys.stderr.isatty() and not sys.stdout.isatty()
    for number, event in enumerate(events, 1):
        if shows and number % _PROGRESS_EVERY == 0:
            share = (event.at_ms - from_ms) * 100 // (to_ms - from_ms)
            click.echo(f"\r{number} events, {share}% of the time, {shown_at(event.at_ms)}", err=True, nl=False)
        yield event
    if shows:
        click.echo("\r\033[K", err=True, nl=False)


def _print(out: Output, events: "Iterable[Event]") -> dict[str, int]:
    """Shows the events as they come; how many there were of each kind."""
    counts: dict[str, int] = {}
    for event in events:
        counts[event.decision.value] = counts.get(event.decision.value, 0) + (event.count or 1)
        if out.as_json:
            out.record(_json(event))
        else:
            out.line("  ".join(_cells(event)).rstrip())
    return counts


def _cells(event: "Event") -> tuple[str, ...]:
    word = event.decision.value
    if event.from_ms is not None and event.to_ms is not None:
        if event.count == 1:
            slots = f"slot {shown_at(event.from_ms)}"
        else:
            slots = f"{event.count} slots, {shown_at(event.from_ms)} to {shown_at(event.to_ms)}"
        return shown_at(event.at_ms), f"{word:7}", event.job, f"{slots}: {event.reason}"
    about: list[str] = []
    if event.slot_ms is not None and event.slot_ms != event.at_ms:
        about.append(f"slot {shown_at(event.slot_ms)}")
        if event.due_ms is not None and event.at_ms > event.due_ms:
            about.append(f"{span(event.at_ms - event.due_ms)} late")
        elif event.due_ms == event.at_ms:
            about.append("jitter")
    about += [event.trigger.value] if event.trigger.value != "schedule" else []
    about += ["had to wait"] if event.waited else []
    about += [event.reason] if event.reason else []
    return shown_at(event.at_ms), f"{word:7}", event.job, ", ".join(about)


def _json(event: "Event") -> dict[str, object]:
    instants = {"at": event.at_ms, "slot": event.slot_ms, "due": event.due_ms, "from": event.from_ms, "to": event.to_ms}
    found: dict[str, object] = {key: rfc3339(value) for key, value in instants.items() if value is not None}
    found |= {"job": event.job, "decision": event.decision.value}
    if event.from_ms is None:
        found["trigger"] = event.trigger.value
    more = {"reason": event.reason, "count": event.count, "waited": event.waited}
    return found | {key: value for key, value in more.items() if value}
