"""What the commands about message schedules share: the way to the stream, the flags, what is shown."""

import base64
import re
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import rich_click as click

from natscron.cli.client import Body
from natscron.cli.output import instant_ms, when
from natscron.cli.session import Session
from natscron.errors import ConfigError

if TYPE_CHECKING:
    from natscron.messages import Handle, MessageScheduler, Scheduled
    from natscron.wire.connection import Connection

__all__ = [
    "data_of",
    "pairs",
    "scheduled_json",
    "shown",
    "shown_when",
    "stream_options",
    "to_written",
    "with_scheduler",
    "write_options",
    "written",
]

T = TypeVar("T")
_WHERE: Final = "Where it stands"
_WHAT: Final = "What is sent"
_STDIN: Final = "-"


def stream_options(fn: Callable[..., Any]) -> Callable[..., Any]:
    """``--stream`` and ``--prefix``."""
    options = [
        click.option("--stream", metavar="NAME", help="Its stream. [default: the one that holds TARGET]", panel=_WHERE),
        click.option("--prefix", default="schedules", show_default=True, help="Where schedules stand.", panel=_WHERE),
    ]
    for option in reversed(options):
        fn = option(fn)
    return click.option_panel(_WHERE)(fn)


def write_options(*, headers: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The flags of what is sent; without ``headers`` those of a sample."""
    options = [
        click.option(
            "--id", "id_", metavar="ID", help="Of this schedule; the same ID replaces it. [default: a new one]"
        ),
        click.option("--header", "headers", multiple=True, metavar="K=V", help="A header; repeatable.", panel=_WHAT),
        click.option("--ttl", metavar="DURATION", help="How long a message lives once it is sent.", panel=_WHAT),
        click.option("--rollup", is_flag=True, help="A message replaces those before it on TARGET.", panel=_WHAT),
    ]
    if not headers:
        del options[1]

    def decorate(fn: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            fn = option(fn)
        return click.option_panel(_WHAT)(fn)

    return decorate


def with_scheduler(
    session: Session,
    work: "Callable[[MessageScheduler], Awaitable[T]]",
    *,
    stream: str | None,
    prefix: str,
    target: str = "",
) -> T:
    """Connect and do the work on the stream, by default the one that holds ``target``."""

    async def main(connection: "Connection", timeout_s: float) -> T:
        from natscron.messages import MessageScheduler  # noqa: PLC0415 - loads the NATS client, for commands that ask

        name = stream or await _stream_of(connection, target)
        async with MessageScheduler(connection, name, prefix, timeout=timeout_s, clock=session.clock) as schedules:
            return await work(schedules)

    return session.run_on_nats(main)


async def _stream_of(connection: "Connection", target: str) -> str:
    from natscron.messages.subjects import check_subject  # noqa: PLC0415 - see above
    from natscron.wire.discovery import find_streams  # noqa: PLC0415 - see above

    check_subject(target)
    found = [stream.name for stream in await find_streams(connection, target)]
    if len(found) != 1:
        raise ConfigError(
            f"no stream holds {target!r}; make one with `nats-cron message setup NAME {target}`, or give --stream"
            if not found
            else f"{target!r} is in several streams ({', '.join(found)}): give --stream"
        )
    return found[0]


def data_of(data: str | None) -> bytes:
    """The DATA argument as bytes; ``-`` reads them from the standard input."""
    if data == _STDIN:
        return sys.stdin.buffer.read()
    return (data or "").encode(errors="surrogateescape")


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """The ``--header`` flags. Fails as a usage error."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--header")
        found[name] = value
    return found


def to_written(handle: "Handle", scheduled: "Scheduled | None") -> Body:
    """A schedule that was written, as JSON."""
    return {
        "target": handle.target,
        "id": handle.id,
        "revision": handle.revision,
        "subject": handle.subject,
        "sequence": handle.sequence,
        "replaced": handle.replaced,
        "next_fire": _text(scheduled.next_fire if scheduled else None),
        "warnings": list(handle.warnings),
    }


async def written(handle: "Handle") -> Body:
    """The same, with when it fires."""
    return to_written(handle, await handle.get())


def shown(session: Session, reply: Mapping[str, Any], what: str) -> None:
    """Say what was written."""
    if session.out.as_json:
        session.out.data(reply)
        return
    verb = "replaced" if reply["replaced"] else "stored"
    session.out.line(f"{what} for {reply['target']} {verb}, id {reply['id']}")
    if reply["next_fire"]:
        session.out.line(f"  Next: {shown_when(session, reply['next_fire'])}")
    for warning in reply["warnings"]:
        session.out.warn(warning)


def shown_when(session: Session, text: object, *, missing: str = "-") -> str:
    """An instant in relative and absolute time."""
    if instant_ms(text) is not None and (instant_ms(text) or 0) <= session.clock.now_ms():
        return "now"
    return when(text, session.clock.now_ms(), missing=missing)


def scheduled_json(one: "Scheduled") -> Body:
    """A stored schedule as JSON; a body that is no text is in base 64."""
    try:
        payload = {"type": "text", "data": one.body.decode()}
    except UnicodeDecodeError:
        payload = {"type": "base64", "data": base64.b64encode(one.body).decode()}
    found: Body = {
        "target": one.target,
        "id": one.id,
        "kind": one.kind,
        "schedule": re.sub(r"^@(at|every) ", "", one.text),
        "tz": one.tz,
        "source": one.source,
        "next_fire": _text(one.next_fire),
        "payload": payload,
        "headers": dict(one.headers),
        "ttl": one.ttl,
        "rollup": one.rollup,
        "attempt": one.attempt,
        "revision": one.revision,
        "subject": one.subject,
        "sequence": one.sequence,
        "stored_at": _text(one.stored_at),
    }
    return {key: value for key, value in found.items() if value not in ("", {}, False, None)}


def _text(moment: Any) -> str | None:  # noqa: ANN401 - a datetime, or None
    return None if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
