"""Commands that write message schedules: ``message at``, ``message every``, ``message cron``, ``message sample``."""

import datetime as dt
import re
from typing import TYPE_CHECKING

import rich_click as click

from natscron.cli.client import Body
from natscron.cli.message_link import (
    data_of,
    pairs,
    shown,
    stream_options,
    with_scheduler,
    write_options,
    written,
)
from natscron.cli.session import Session, examples, with_session
from natscron.errors import ValidationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Literal

    from natscron.messages import Handle, MessageScheduler

__all__ = ["at", "cron", "every", "sample"]


def _when(text: str) -> str | dt.timedelta:
    """The WHEN argument: an instant, ``in 5m``, or a duration from now."""
    from natscron.durations import parse_duration  # noqa: PLC0415 - not needed to draw help

    if re.match(r"\d{4}-|in\s", text.strip()):
        return text
    try:
        return dt.timedelta(microseconds=parse_duration(text.strip()) // 1_000)
    except ValidationError:
        raise click.BadParameter(
            f"{text!r} is no instant; write 5m or 'in 5m' (from now), or such as 2027-01-31T09:00:00Z",
            param_hint="WHEN",
        ) from None


def _write(  # noqa: PLR0913 - what is written, and where
    session: Session,
    what: str,
    write: "Callable[[MessageScheduler], Awaitable[Handle]]",
    *,
    target: str,
    stream: str | None,
    prefix: str,
) -> None:
    async def work(schedules: "MessageScheduler") -> Body:
        return await written(await write(schedules))

    shown(session, with_scheduler(session, work, stream=stream, prefix=prefix, target=target), what)


@click.command()
@click.argument("target")
@click.argument("when", metavar="WHEN")
@click.argument("data", required=False)
@write_options()
@click.option(
    "--past",
    type=click.Choice(["fire", "refuse"]),
    default="fire",
    show_default=True,
    help="What happens if WHEN is over: it fires at once, or is refused.",
)
@stream_options
@with_session()
@examples(
    "nats-cron message at orders 'in 5m' '{\"id\": 1}'",
    "nats-cron message at orders 2027-01-31T09:00:00+01:00 'happy birthday' --id birthday-7 --past refuse",
    "nats-cron message at orders 30s - --header X-Team=billing --ttl 1h < order.json",
)
def at(  # noqa: PLR0913 - one parameter an option
    session: Session,
    target: str,
    when: str,
    data: str | None,
    *,
    id_: str | None,
    headers: tuple[str, ...],
    ttl: str | None,
    rollup: bool,
    past: "Literal['fire', 'refuse']",
    stream: str | None,
    prefix: str,
) -> None:
    """Publish DATA to TARGET once, at WHEN.

    WHEN is a duration from now (5m), or RFC 3339 with an offset. The server looks every 250 ms, and never early. DATA
    of - is read from the standard input.
    """
    due, body, own = _when(when), data_of(data), pairs(headers)
    _write(
        session,
        "Message",
        lambda schedules: schedules.at(target, due, body, id=id_, headers=own, ttl=ttl, rollup=rollup, past=past),
        target=target,
        stream=stream,
        prefix=prefix,
    )


@click.command()
@click.argument("target")
@click.argument("interval")
@click.argument("data", required=False)
@write_options()
@stream_options
@with_session()
@examples(
    "nats-cron message every heartbeat 30s ping --rollup",
    "nats-cron message every reports.hourly 1h --id hourly --ttl 2h",
)
def every(  # noqa: PLR0913 - one parameter an option
    session: Session,
    target: str,
    interval: str,
    data: str | None,
    *,
    id_: str | None,
    headers: tuple[str, ...],
    ttl: str | None,
    rollup: bool,
    stream: str | None,
    prefix: str,
) -> None:
    """Publish DATA to TARGET again and again, INTERVAL apart: whole seconds, at least 1s.

    Every message stays in the stream: --ttl or --rollup keeps it from growing.
    """
    body, own = data_of(data), pairs(headers)
    _write(
        session,
        f"Message every {interval}",
        lambda schedules: schedules.every(target, interval, body, id=id_, headers=own, ttl=ttl, rollup=rollup),
        target=target,
        stream=stream,
        prefix=prefix,
    )


@click.command()
@click.argument("target")
@click.argument("expression")
@click.argument("data", required=False)
@click.option("--tz", metavar="ZONE", help="Its time zone, such as Europe/Berlin. [default: UTC]")
@write_options()
@stream_options
@with_session()
@examples(
    "nats-cron message cron reports.daily '30 9 * * MON-FRI' --tz America/New_York",
    "nats-cron message cron reports.hourly @hourly --id hourly --ttl 2h",
    "nats-cron message cron night '0 30 2 * * *' --tz Europe/Berlin",
)
def cron(  # noqa: PLR0913 - one parameter an option
    session: Session,
    target: str,
    expression: str,
    data: str | None,
    *,
    tz: str | None,
    id_: str | None,
    headers: tuple[str, ...],
    ttl: str | None,
    rollup: bool,
    stream: str | None,
    prefix: str,
) -> None:
    """Publish DATA to TARGET by a cron EXPRESSION.

    Five fields (minute first) are translated to the server's six if that is exact, and refused if not: no L, W, # or H,
    and no time that a clock change skips or repeats. Six fields (second first) and @hourly, @daily and so on go to the
    server as they are, with its own rules for clock changes.
    """
    body, own = data_of(data), pairs(headers)
    _write(
        session,
        f"Message by '{expression}'",
        lambda schedules: schedules.cron(target, expression, body, tz=tz, id=id_, headers=own, ttl=ttl, rollup=rollup),
        target=target,
        stream=stream,
        prefix=prefix,
    )


@click.command()
@click.argument("target")
@click.argument("source")
@click.option("--every", "interval", metavar="DURATION", help="How often: whole seconds.")
@click.option("--cron", "expression", metavar="EXPRESSION", help="When, instead of --every.")
@click.option("--tz", metavar="ZONE", help="The zone of --cron. [default: UTC]")
@write_options(headers=False)
@stream_options
@with_session()
@examples(
    "nats-cron message sample sensors.out sensors.in --every 5m",
    "nats-cron message sample prices.close prices.live --cron '0 18 * * MON-FRI' --id close --rollup",
)
def sample(  # noqa: PLR0913 - one parameter an option
    session: Session,
    target: str,
    source: str,
    *,
    interval: str | None,
    expression: str | None,
    tz: str | None,
    id_: str | None,
    ttl: str | None,
    rollup: bool,
    stream: str | None,
    prefix: str,
) -> None:
    """Publish the last message of SOURCE to TARGET again and again, changed or not.

    Both are subjects of the same stream. While SOURCE has no message, an empty one comes.
    """
    if (interval is None) == (expression is None):
        raise click.UsageError("give either --every or --cron")
    if tz is not None and expression is None:
        raise click.UsageError("--tz goes with --cron")
    _write(
        session,
        f"Sample of {source}",
        lambda schedules: schedules.sample(
            target, source=source, every=interval, cron=expression, tz=tz, id=id_, ttl=ttl, rollup=rollup
        ),
        target=target,
        stream=stream,
        prefix=prefix,
    )
