"""A schedule as it is about to be written: target, id, headers, body. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from natscron.codec.times import ms_to_text
from natscron.errors import ValidationError
from natscron.messages.subjects import check_subject
from natscron.messages.values import Body, Duration, body_of, headers_of, ttl_text
from natscron.schedule.serverwords import Timing
from natscron.wire import scheduleheaders as h
from natscron.wire.levels import Needs

__all__ = [
    "Draft",
    "guard_lines",
    "header_block",
    "plain_block",
    "recurring_draft",
    "sample_draft",
    "single_draft",
]


class Draft(NamedTuple):
    """What will be stored; where it will stand is decided by who writes it."""

    target: str
    id: str | None
    """None: one that nobody has."""
    headers: dict[str, str]
    body: bytes
    needs: Needs
    warnings: tuple[str, ...] = ()

    @property
    def single(self) -> bool:
        """Whether it fires once."""
        return h.DUE in self.headers


def single_draft(  # noqa: PLR0913 - what a message consists of
    target: str,
    due: int,
    body: Body,
    *,
    id: str | None = None,  # noqa: A002 - the field's name
    headers: Mapping[str, str] | None = None,
    ttl: Duration | None = None,
    rollup: bool = False,
) -> Draft:
    """A single message, ``due`` in milliseconds since 1970 UTC.

    Raises InvalidSubjectError, ValidationError, InvalidIntervalError.
    """
    check_subject(target)
    text = ms_to_text(due)
    made = {h.SCHEDULE: f"@at {text}", h.TARGET: target, h.DUE: text}
    if ttl is not None:
        made[h.SCHEDULE_TTL] = ttl_text(ttl)
    if rollup:
        made[h.SCHEDULE_ROLLUP] = "sub"
    if headers:
        made |= headers_of(headers)
    needs = Needs.FULL if rollup else Needs.SINGLE
    return Draft(target, id, made, body if type(body) is bytes else body_of(body), needs)


def recurring_draft(  # noqa: PLR0913 - what a message consists of
    target: str,
    timing: Timing,
    body: Body,
    *,
    id: str | None = None,  # noqa: A002 - the field's name
    headers: Mapping[str, str] | None = None,
    ttl: Duration | None = None,
    rollup: bool = False,
) -> Draft:
    """A message that comes again and again. Raises InvalidSubjectError, ValidationError, InvalidIntervalError."""
    check_subject(target)
    made = {h.SCHEDULE: timing.text, h.TARGET: target, h.TIMING: timing.text}
    if timing.tz:
        made[h.TZ] = timing.tz
        made[h.TIMING] = f"TZ={timing.tz} {timing.text}"
    if ttl is not None:
        made[h.SCHEDULE_TTL] = ttl_text(ttl)
    if rollup:
        made[h.SCHEDULE_ROLLUP] = "sub"
    made |= headers_of(headers)
    return Draft(target, id, made, body_of(body), Needs.FULL, timing.warnings)


def sample_draft(  # noqa: PLR0913 - what a message consists of
    target: str,
    source: str,
    timing: Timing,
    *,
    id: str | None = None,  # noqa: A002 - the field's name
    ttl: Duration | None = None,
    rollup: bool = False,
) -> Draft:
    """The last message of ``source``, again and again. Raises InvalidSubjectError, InvalidIntervalError.

    As long as the source has none, the server sends the schedule's own message instead: empty, with a header of ours.
    """
    check_subject(source, "source")
    if source == target:
        raise ValidationError(f"the source {source!r} is the target itself: sample into another subject")
    draft = recurring_draft(target, timing, b"", id=id, ttl=ttl, rollup=rollup)
    draft.headers[h.SOURCE] = source
    draft.headers[h.EMPTY_SAMPLE] = source
    return draft


def guard_lines(guard: Mapping[str, str]) -> str:
    """Headers of ours as they go over the wire, for the two below."""
    return "".join([f"{name}: {value}\r\n" for name, value in guard.items()])


def header_block(headers: Mapping[str, str], guard: str) -> bytes:
    """The whole block of a draft's headers, which were checked, and of the guard."""
    return f"NATS/1.0\r\n{guard_lines(headers)}{guard}\r\n".encode()


def plain_block(target: str, due: int, guard: str) -> bytes:
    """The same for a single message with nothing but a target, which was checked, and a due time. Quick, for bulk."""
    text = ms_to_text(due)
    return (f"NATS/1.0\r\n{h.SCHEDULE}: @at {text}\r\n{h.TARGET}: {target}\r\n{h.DUE}: {text}\r\n{guard}\r\n").encode()
