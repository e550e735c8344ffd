"""Generated messages as a worker receives them: which schedule, due when, which try, and whether they are stale.

Stale means: the stream had accepted a replacement or a cancellation of the schedule *before* it stored this message.
The server collects due schedules and stores their messages a moment later, and in between it accepts changes; it then
publishes all the same. Everything is compared by the stream's own sequences, so no clock takes part: a message that was
stored before the change is not stale, however late it is handled.
"""

import datetime as dt
from typing import Final, NamedTuple

import msgspec

from natscron.codec.times import text_to_ms
from natscron.errors import InvalidScheduleTimeError, ValidationError
from natscron.ids import is_ulid
from natscron.messages.reading import instant_or_none, timing_of
from natscron.messages.subjects import place_of
from natscron.schedule.servercron import ServerCron
from natscron.schedule.serverwords import server_rules
from natscron.wire import scheduleheaders as h
from natscron.wire.failures import Message
from natscron.wire.kv import parse_time_ns
from natscron.wire.reading import Entry

__all__ = ["Delivered", "Fired", "delivered", "read_fired", "recurring_due", "stale_from"]

_ACK: Final = "$JS.ACK."
_OLD_TOKENS: Final = 9
_NEW_TOKENS: Final = 11
_SECOND_NS: Final = 1_000_000_000


class Fired(msgspec.Struct, frozen=True, kw_only=True):
    """What a message says of the schedule that made it; for an ordinary message :attr:`schedule` is empty."""

    schedule: str = ""
    """The subject of the schedule."""
    id: str = ""
    """The schedule's id; empty also if another program wrote it, in another layout."""
    revision: str = ""
    due: dt.datetime | None = None
    """When it was due. For a try again: when the first try was. None: the message does not say."""
    next_fire: dt.datetime | None = None
    """When the schedule fires next; None for a single message."""
    attempt: int = 1
    sequence: int | None = None
    """The stream's sequence of this message; None if it was not received from a consumer."""
    manual: bool = False
    """``publish_now`` sent it."""
    empty_sample: bool = False
    """It is a sample that was taken while the source had no message: there is nothing in it."""
    stale: bool = False
    """The schedule had been replaced or cancelled before this message was stored; only ``receive`` finds out."""

    @property
    def key(self) -> str:
        """The same for two messages that the server made of one due time, as it may after a crash; else empty."""
        return f"{self.revision}@{self.due.isoformat()}" if self.revision and self.due else ""


class Delivered(NamedTuple):
    """What an acknowledgement subject says of a message."""

    stream: str
    sequence: int
    stored_ns: int


def delivered(message: Message) -> Delivered | None:
    """Where a message comes from; None if it was not received from a consumer."""
    parts = message.reply.split(".") if message.reply.startswith(_ACK) else []
    try:
        if len(parts) == _OLD_TOKENS:
            return Delivered(parts[2], int(parts[5]), int(parts[7]))
        if len(parts) >= _NEW_TOKENS:
            return Delivered(parts[4], int(parts[7]), int(parts[9]))
    except ValueError:
        pass
    return None


def read_fired(message: Message, prefix: str = "schedules") -> Fired:
    """What the message alone says; nothing is asked, so :attr:`Fired.stale` is False."""
    found = message.headers or {}
    schedule = found.get(h.SCHEDULER) or found.get(h.MANUAL, "")
    if h.CANCELLED in found:  # not what the schedule sent, but what was sent in its stead
        schedule = ""
    place = place_of(prefix, schedule) if schedule else None
    following = found.get(h.NEXT, "")
    next_ms = _next_ms(following)
    due: int | None = None
    if found.get(h.DUE):
        due = _ms(found[h.DUE])
    elif next_ms is not None and found.get(h.TIMING):
        text = found[h.TIMING]
        zone = ""
        if text.startswith("TZ="):
            zone, _, text = text.removeprefix("TZ=").partition(" ")
        due = recurring_due(text, zone, next_ms)
    attempt = found.get(h.ATTEMPT, "")
    origin = delivered(message)
    return Fired(
        schedule=schedule,
        id=place.id if place else "",
        revision=place.revision if place else "",
        due=instant_or_none(due),
        next_fire=instant_or_none(next_ms),
        attempt=int(attempt) if attempt.isdigit() else 1,
        sequence=origin.sequence if origin else None,
        manual=h.MANUAL in found,
        empty_sample=h.EMPTY_SAMPLE in found,
    )


def _ms(text: str) -> int | None:
    try:
        return text_to_ms(text)
    except InvalidScheduleTimeError:
        return None


def _next_ms(text: str) -> int | None:
    if not text or text == h.PURGE:
        return None
    try:
        return parse_time_ns(text) // 1_000_000
    except (ValueError, OverflowError):
        return None


def recurring_due(text: str, tz: str, next_ms: int) -> int | None:
    """The slot before ``next_ms`` by a recurring schedule's own words; None: they cannot be read."""
    try:
        rules = server_rules(text, tz)
    except ValidationError:
        return None
    if isinstance(rules, ServerCron):
        second = rules.last_before(next_ms // 1000)
        return None if second is None else second * 1000
    return None if rules is None else next_ms - rules * 1000


def due_from_schedule(message: Message, schedule: Entry) -> int | None:
    """The due time of a message that does not say it (a sample has its source's headers), from its schedule."""
    next_ms = _next_ms((message.headers or {}).get(h.NEXT, ""))
    return None if next_ms is None else recurring_due(*timing_of(schedule.headers), next_ms)


def stale_from(newest: Entry, revision: str, prefix: str) -> int | None:
    """The stream's sequence from which on messages of ``revision`` are stale; None: it is still the newest.

    ``newest`` is the last message under the schedule's id. It says what it replaced, so that a revision before that one
    is known, too, to have been replaced by then.
    """
    place = place_of(prefix, newest.subject)
    found = newest.headers or {}
    if place is None or place.revision == revision or found.get(h.LIVE) == revision:
        return None
    if not (is_ulid(place.revision) and is_ulid(revision)):
        return newest.seq
    if revision > place.revision:
        return None
    before, _, seq = found.get(h.REPLACES, "").partition(" ")
    if seq.isdigit() and revision < before:
        return int(seq)
    return newest.seq
