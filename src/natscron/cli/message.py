"""Commands about message schedules in a stream: ``message setup``, ``check``, ``list``, ``show``, ``cancel``."""

from typing import TYPE_CHECKING, Final

import rich_click as click

from natscron.cli import message_write
from natscron.cli.client import Body
from natscron.cli.message_link import data_of, scheduled_json, shown_when, stream_options, with_scheduler
from natscron.cli.output import Output
from natscron.cli.session import Session, examples, with_session

if TYPE_CHECKING:
    from natscron.messages import MessageScheduler, StreamReport

__all__ = ["message"]

_HEADINGS: Final = ("TARGET", "ID", "SCHEDULE", "NEXT", "DATA")
_SHOWN_DATA: Final = 40


@click.group()
@click.command_panel("Streams", commands=["setup", "check"])
@click.command_panel("Schedules", commands=["at", "every", "cron", "sample"])
@click.command_panel("What is there", commands=["list", "show", "cancel"])
@examples(
    "nats-cron message setup ORDERS orders 'reports.>'",
    "nats-cron message at orders 'in 5m' '{\"id\": 1}' --id order-1",
    "nats-cron message cron reports.daily '30 9 * * MON-FRI' --tz America/New_York",
    "nats-cron message list ORDERS",
    "nats-cron message cancel orders order-1",
)
def message() -> None:
    """Messages that nats-server itself holds back, repeats or samples.

    They need no service: the server publishes them into a stream, also with nothing of ours running. Workers read them
    with a consumer of the stream. For retries, time-outs, history and schedules that the server cannot do, use jobs
    (`nats-cron add`).
    """


@message.command()
@click.argument("stream")
@click.argument("subjects", metavar="[SUBJECT...]", nargs=-1)
@click.option("--prefix", default="schedules", show_default=True, help="Where schedules stand.")
@click.option("--enable", is_flag=True, help="Change a stream that is there: schedules cannot be turned off again.")
@click.option("--replicas", type=click.IntRange(1, 5), metavar="N", help="Copies. [default: 3 in a cluster, else 1]")
@click.option("--storage", type=click.Choice(["file", "memory"]), default="file", show_default=True)
@click.option("--retention", type=click.Choice(["limits", "workqueue"]), default="limits", show_default=True)
@with_session()
@examples(
    "nats-cron message setup ORDERS orders",
    "nats-cron message setup WORK 'jobs.>' --retention workqueue",
    "nats-cron message setup EVENTS --enable",
)
def setup(  # noqa: PLR0913 - one parameter an option
    session: Session,
    stream: str,
    subjects: tuple[str, ...],
    *,
    prefix: str,
    enable: bool,
    replicas: int | None,
    storage: str,
    retention: str,
) -> None:
    """Make a STREAM for schedules, or see that one that is there can have them.

    SUBJECTs are where messages go, and what is sampled: the server publishes into the schedule's own stream only. A
    stream that is there stays as it is without --enable.
    """
    report = with_scheduler(
        session,
        lambda schedules: schedules.ensure_stream(
            subjects, enable=enable, replicas=replicas, storage=storage, retention=retention
        ),
        stream=stream,
        prefix=prefix,
    )
    if session.out.as_json:
        session.out.data(_report(report))
        return
    done = "made" if report.created else f"changed: {', '.join(report.changed)}" if report.changed else "is ready"
    session.out.line(f"Stream {report.stream} {done}")
    _findings(session.out, report)


@message.command()
@click.argument("stream")
@click.option("--prefix", default="schedules", show_default=True, help="Where schedules stand.")
@with_session()
@examples(
    "nats-cron message check ORDERS",
    "nats-cron message check ORDERS --json",
)
def check(session: Session, stream: str, *, prefix: str) -> int:
    """See what a STREAM and its consumers do to schedules: limits that drop them, consumers that eat them.

    Changes nothing. Exit code 1 if schedules cannot work, or would be lost for certain.
    """
    report = with_scheduler(session, lambda schedules: schedules.check_stream(), stream=stream, prefix=prefix)
    if session.out.as_json:
        session.out.data(_report(report))
    else:
        able = "single and recurring messages" if report.recurring else "single messages only"
        session.out.line(f"Stream {report.stream}, nats-server {report.server}: {able}")
        _findings(session.out, report)
        if report.ok and not report.warnings:
            session.out.line("Nothing to complain about")
    return 0 if report.ok else 1


def _report(report: "StreamReport") -> Body:
    return {
        "stream": report.stream,
        "ok": report.ok,
        "created": report.created,
        "changed": list(report.changed),
        "problems": list(report.problems),
        "warnings": list(report.warnings),
        "server": report.server,
        "recurring": report.recurring,
    }


def _findings(out: Output, report: "StreamReport") -> None:
    for problem in report.problems:
        out.error(problem)
    for warning in report.warnings:
        out.warn(warning)


for _command in (message_write.at, message_write.every, message_write.cron, message_write.sample):
    message.add_command(_command)


@message.command("list")
@click.argument("stream")
@click.argument("target", required=False)
@click.option("--prefix", default="schedules", show_default=True, help="Where schedules stand.")
@click.option("--limit", type=click.IntRange(1), metavar="N", help="At most so many, oldest first.")
@with_session()
@examples(
    "nats-cron message list ORDERS",
    "nats-cron message list ORDERS 'reports.>'",
    "nats-cron message list ORDERS --json --limit 1000",
)
def list_(session: Session, stream: str, target: str | None, *, prefix: str, limit: int | None) -> None:
    """List the schedules of a STREAM, or those for TARGET (may hold wildcards), oldest first."""

    async def work(schedules: "MessageScheduler") -> list[Body]:
        found: list[Body] = []
        async for one in schedules.list(target):
            found.append(scheduled_json(one))
            if limit is not None and len(found) >= limit:
                break
        return found

    found = with_scheduler(session, work, stream=stream, prefix=prefix)
    if session.out.as_json:
        session.out.data(found)
    elif found:
        session.out.table(_HEADINGS, [_row(session, one) for one in found])
    else:
        session.out.line("No schedules found")


def _row(session: Session, one: Body) -> tuple[str, ...]:
    data = str(one["payload"]["data"])
    return (
        str(one["target"]),
        str(one.get("id") or "-"),
        _schedule(one),
        shown_when(session, one.get("next_fire")),
        data if len(data) <= _SHOWN_DATA else data[: _SHOWN_DATA - 3] + "...",
    )


def _schedule(one: Body) -> str:
    """A schedule on one line."""
    text = str(one["schedule"])
    words = {"at": f"at {text}", "every": f"every {text}"}.get(one["kind"], text)
    zone = f" [{one['tz']}]" if one.get("tz") else ""
    return f"{words}{zone}" + (f", last of {one['source']}" if one.get("source") else "")


@message.command()
@click.argument("target")
@click.argument("id_", metavar="ID")
@stream_options
@with_session()
@examples(
    "nats-cron message show orders order-1",
    "nats-cron message show orders order-1 --json",
)
def show(session: Session, target: str, id_: str, *, stream: str | None, prefix: str) -> int:
    """Show the schedule of an ID for TARGET. Exit code 1 if it is not there: it has fired, or was cancelled."""
    found = with_scheduler(
        session, lambda schedules: schedules.get(target, id_), stream=stream, prefix=prefix, target=target
    )
    if found is None:
        session.out.error(_missing(target, id_), "404")
        return 1
    one = scheduled_json(found)
    if session.out.as_json:
        session.out.data(one)
        return 0
    lines = [
        ("Target", one["target"]),
        ("Id", one.get("id", "-")),
        ("Schedule", _schedule(one)),
        ("Next", shown_when(session, one.get("next_fire"))),
        ("Data", one["payload"]["data"] + (" (base64)" if one["payload"]["type"] == "base64" else "")),
        ("Headers", ", ".join(f"{name}={value}" for name, value in one.get("headers", {}).items())),
        ("Lives", one.get("ttl", "")),
        ("Rollup", "replaces what is on the target" if one.get("rollup") else ""),
        ("Attempt", str(one["attempt"]) if one["attempt"] > 1 else ""),
        ("Stored", f"{shown_when(session, one['stored_at'])}, sequence {one['sequence']}"),
        ("Subject", one["subject"]),
    ]
    for label, text in lines:
        if text:
            session.out.line(f"{label + ':':<9} {text}")
    return 0


def _missing(target: str, id_: str) -> str:
    return f"there is no schedule {id_!r} for {target}: it has fired, was cancelled, or never was"


@message.command()
@click.argument("target")
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.option("--if-exists", is_flag=True, help="One that is not there is no error.")
@click.option("--publish", metavar="SUBJECT", help="Publish a message in the same step, if it was there.")
@click.option("--data", metavar="DATA", help="Of --publish; - reads it from the standard input.")
@stream_options
@with_session()
@examples(
    "nats-cron message cancel orders order-1",
    "nats-cron message cancel orders order-1 order-2 --if-exists",
    "nats-cron message cancel orders order-1 --publish orders.log --data 'order 1 was cancelled'",
)
def cancel(  # noqa: PLR0913 - one parameter an option
    session: Session,
    target: str,
    ids: tuple[str, ...],
    *,
    if_exists: bool,
    publish: str | None,
    data: str | None,
    stream: str | None,
    prefix: str,
) -> int:
    """Cancel the schedules of these IDs for TARGET. Exit code 1 if one was not there.

    One that is due at this very moment may fire all the same; workers that use `receive` drop that message.
    """
    if data is not None and publish is None:
        raise click.UsageError("--data goes with --publish")
    if publish is not None and len(ids) > 1:
        raise click.UsageError("--publish goes with one ID")
    body = data_of(data)

    async def work(schedules: "MessageScheduler") -> dict[str, bool]:
        from natscron.messages import Publication  # noqa: PLC0415 - loads the NATS client, for commands that ask

        note = Publication(publish, body) if publish is not None else None
        return {one: await schedules.cancel(target, one, publish=note) for one in ids}

    results = with_scheduler(session, work, stream=stream, prefix=prefix, target=target)
    if session.out.as_json:
        session.out.data([{"target": target, "id": one, "cancelled": done} for one, done in results.items()])
    for one, done in results.items():
        if done:
            session.out.line(f"Schedule {one!r} for {target} cancelled")
        elif not session.out.as_json and not if_exists:
            session.out.error(_missing(target, one))
    return 0 if if_exists or all(results.values()) else 1
