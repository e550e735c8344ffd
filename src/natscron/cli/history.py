"""Commands that look at runs: ``runs`` and ``watch``."""

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec
import rich_click as click

from natscron.cli.client import JSON_ERRORS, ApiClient, Body, matches
from natscron.cli.output import Output, instant_ms, rfc3339, shown_at, span
from natscron.cli.session import Session, complete_subject, examples, with_session
from natscron.model import RunStatus

__all__ = ["runs", "watch"]

_decoder: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder()
_SEEN_MAX: Final = 20_000
_HEADINGS: Final = ("SCHEDULED AT", "JOB", "STATUS", "TRIGGER", "LATE", "TOOK", "RUN", "REASON")
_STATUSES: Final = [one.value for one in RunStatus]


@click.command()
@click.argument("job", shell_complete=complete_subject, required=False)
@click.option("--limit", "-n", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many.")
@click.option("--status", type=click.Choice(_STATUSES), help="Only runs that ended so.")
@click.option("--since", metavar="DURATION|INSTANT", help="Not older than this: 2h, or RFC 3339.")
@click.option("--follow", "-f", is_flag=True, help="Then show new ones as they come, until Ctrl-C.")
@with_session()
@examples(
    "nats-cron runs",
    "nats-cron runs reports.daily --status failed --since 24h",
    "nats-cron runs --follow --json",
)
def runs(  # noqa: PLR0913 - one parameter an option
    session: Session, job: str | None, *, limit: int, status: str | None, since: str | None, follow: bool
) -> None:
    """Show past runs, newest first (with --follow oldest first)."""
    query: Body = {"job": job, "status": status}
    if since is not None:
        query["since"] = rfc3339(_since_ms(since, session.clock.now_ms()))
    query = {key: value for key, value in query.items() if value is not None}

    def wanted(run: Body) -> bool:
        return (job is None or run.get("job") == job) and (status is None or run.get("status") == status)

    async def work(client: ApiClient) -> None:
        if not follow:
            found = await client.runs(query, limit)
            if session.out.as_json:
                session.out.data(found)
            elif found:
                session.out.table(_HEADINGS, map(_row, found))
            else:
                session.out.line("No runs found")
            return
        async with client.live(job) as messages:
            # Subscribed first: a run that ends while the past is read shows up twice, not never.
            seen: dict[tuple[object, ...], None] = {}
            for run in reversed(await client.runs(query, limit)):
                seen[_key(run)] = None
                _print(session.out, run)
            await _follow(session.out, messages, lambda run: wanted(run) and _fresh(run, seen))

    session.run(work)


@click.command()
@click.argument("job", shell_complete=complete_subject, metavar="[SUBJECT|PATTERN]", required=False)
@with_session()
@examples(
    "nats-cron watch",
    "nats-cron watch 'reports.>'",
    "nats-cron watch reports.daily --json",
)
def watch(session: Session, job: str | None) -> None:
    """Follow runs live, of all jobs or of those that match, until Ctrl-C."""

    async def work(client: ApiClient) -> None:
        async with client.live(job if job and not set(job) & {"*", ">"} else None) as messages:
            # Without a service nothing would ever come; say so instead of waiting in silence.
            await client.call("status")
            if not session.out.as_json:
                click.echo("Watching runs; Ctrl-C ends it", err=True)
            await _follow(session.out, messages, lambda run: job is None or matches(job, str(run.get("job", ""))))

    session.run(work)


async def _follow(out: Output, messages: AsyncIterator[bytes], wanted: Callable[[Body], bool]) -> None:
    async for data in messages:
        for run in _records(data):
            if wanted(run):
                _print(out, run)


def _records(data: bytes) -> list[Body]:
    """The run records of a message: an object, an array, or one object a line; others are passed over."""
    try:
        value = _decoder.decode(data)
    except JSON_ERRORS:
        try:
            value = _decoder.decode_lines(data)
        except JSON_ERRORS:
            return []
    found = value if isinstance(value, list) else [value]
    return [run for run in found if isinstance(run, dict) and "job" in run and "status" in run]


def _key(run: Body) -> tuple[object, ...]:
    return run.get("job"), run.get("run_id") or (run.get("from"), run.get("to")), run.get("attempt"), run.get("status")


def _fresh(run: Body, seen: dict[tuple[object, ...], None]) -> bool:
    key = _key(run)
    if key in seen:
        return False
    seen[key] = None
    if len(seen) > _SEEN_MAX:
        del seen[next(iter(seen))]
    return True


def _since_ms(text: str, now_ms: int) -> int:
    from natscron.durations import parse_duration_ms  # noqa: PLC0415 - only with --since
    from natscron.errors import ValidationError  # noqa: PLC0415 - only with --since

    at_ms = instant_ms(text)
    if at_ms is not None:
        return at_ms
    try:
        return now_ms - parse_duration_ms(text)
    except ValidationError as error:
        raise click.BadParameter(
            f"{text!r} is neither a duration such as 2h nor an instant such as 2027-01-31T09:00:00Z",
            param_hint="--since",
        ) from error


def _row(run: Body) -> tuple[str, ...]:
    at_ms = instant_ms(run.get("scheduled_at"))
    if at_ms is None and run.get("count") is not None:
        first, last = instant_ms(run.get("from")), instant_ms(run.get("to"))
        at = "-" if first is None or last is None else shown_at(first)
        if first is not None and last is not None and first != last:
            at += f" to {shown_at(last)}"
        # A record of none is about the job, such as that it was paused.
        label = {0: "-", 1: "1 slot"}.get(run["count"], f"{run['count']} slots")
    else:
        at, label = ("-" if at_ms is None else shown_at(at_ms)), str(run.get("run_id") or "-")
    late, took = (
        span(value) if isinstance(value := run.get(key), int | float) else "-" for key in ("lateness_ms", "duration_ms")
    )
    reason = ": ".join(str(run[key]) for key in ("reason", "error") if run.get(key))
    status = str(run.get("status", "-"))
    attempt = f" (try {run['attempt']})" if isinstance(run.get("attempt"), int) and run["attempt"] > 1 else ""
    return (
        at,
        str(run.get("job", "-")),
        status,
        str(run.get("trigger") or "-") + attempt,
        late,
        took,
        label,
        reason or "-",
    )


def _print(out: Output, run: Body) -> None:
    if out.as_json:
        out.record(run)
    else:
        at, job, status, trigger, late, took, label, reason = _row(run)
        why = "" if reason == "-" else f"  {reason}"
        out.line(f"{at}  {job}  {status}  {trigger}  late {late}  took {took}  {label}{why}")
