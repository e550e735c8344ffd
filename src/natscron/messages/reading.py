"""Schedules as they stand in the stream: from stored messages to records, and when they fire next."""

import datetime as dt
from collections.abc import AsyncIterator
from typing import Final

from natscron.codec.times import text_to_ms
from natscron.errors import InvalidScheduleTimeError
from natscron.messages.link import Link
from natscron.messages.records import Kind, Scheduled
from natscron.messages.streamcheck import overlaps
from natscron.messages.subjects import place_of
from natscron.schedule.base import MAX_MS, instant_of
from natscron.schedule.servercron import ServerCron
from natscron.schedule.serverwords import server_rules
from natscron.wire import scheduleheaders as h
from natscron.wire.reading import Entry
from natscron.wire.stored import stored_messages

__all__ = ["due_of", "instant_or_none", "list_scheduled", "next_fire_ms", "scheduled_of", "timing_of"]

_AT: Final = "@at "
_EVERY: Final = "@every "
_MS_NS: Final = 1_000_000
_SECOND_NS: Final = 1_000_000_000


def due_of(headers: dict[str, str] | None) -> int | None:
    """When a single message is due, in milliseconds since 1970 UTC, from its schedule; None: it is not one."""
    text = (headers or {}).get(h.SCHEDULE, "")
    if not text.startswith(_AT):
        return None
    try:
        return text_to_ms(text.removeprefix(_AT).strip())
    except InvalidScheduleTimeError:
        return None


def timing_of(headers: dict[str, str] | None) -> tuple[str, str]:
    """Text and zone of a schedule; both empty: it is none."""
    found = headers or {}
    return found.get(h.SCHEDULE, ""), found.get(h.TZ, "")


def next_fire_ms(entry: Entry, now_ms: int) -> int | None:
    """When a stored schedule fires next, by the server's rules; None: it is none, or that cannot be told."""
    due = due_of(entry.headers)
    if due is not None:
        return due
    text, tz = timing_of(entry.headers)
    rules = server_rules(text, tz) if text else None
    if isinstance(rules, ServerCron):
        second = rules.next_after(now_ms // 1000)
        return None if second is None else second * 1000
    if rules is None:
        return None
    first = (entry.timestamp_ns + _SECOND_NS // 2) // _SECOND_NS + rules
    now_s = -(-now_ms // 1000)
    return (first + max(0, -(-(now_s - first) // rules)) * rules) * 1000


def instant_or_none(ms: int | None) -> dt.datetime | None:
    """The aware datetime in UTC, if there is one."""
    return None if ms is None or not 0 <= ms <= MAX_MS else instant_of(ms)


def scheduled_of(entry: Entry, prefix: str, now_ms: int) -> Scheduled | None:
    """A stored message as a schedule; None if it is not one (a trace of a cancelled one, say)."""
    found = entry.headers or {}
    text, tz = timing_of(found)
    if not text:
        return None
    place = place_of(prefix, entry.subject)
    kind: Kind = "cron"
    if found.get(h.SOURCE):
        kind = "sample"
    elif text.startswith(_AT):
        kind = "at"
    elif text.startswith(_EVERY):
        kind = "every"
    attempt = found.get(h.ATTEMPT, "")
    return Scheduled(
        target=found.get(h.TARGET, ""),
        id=place.id if place else "",
        revision=place.revision if place else "",
        subject=entry.subject,
        sequence=entry.seq,
        kind=kind,
        text=text,
        tz=tz,
        next_fire=instant_or_none(next_fire_ms(entry, now_ms)),
        source=found.get(h.SOURCE, ""),
        ttl=found.get(h.SCHEDULE_TTL, ""),
        rollup=bool(found.get(h.SCHEDULE_ROLLUP)),
        headers=h.own_headers(found),
        body=entry.data,
        stored_at=instant_of(max(0, entry.timestamp_ns // _MS_NS)),
        attempt=int(attempt) if attempt.isdigit() else 1,
    )


async def list_scheduled(link: Link, target: str | None) -> AsyncIterator[Scheduled]:
    """The schedules in the stream's order; ``target`` may hold wildcards. Memory holds one batch of them."""
    facts = await link.facts()
    connection = await link.connection()
    subjects = f"{link.prefix}.>"
    if target is not None and target.split(".")[-1] != ">":
        subjects = f"{link.prefix}.{target}.*.*"
    messages = stored_messages(connection, link.stream, subjects, direct=facts.allow_direct, timeout_s=link.timeout_s)
    async for entry in messages:
        found = scheduled_of(entry, link.prefix, link.clock.now_ms())
        if found is not None and (target is None or overlaps(target, found.target)):
            yield found
