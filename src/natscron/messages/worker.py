"""For workers: taking generated messages, dropping stale ones, and putting one off.

Nothing is remembered between messages, so nothing can be out of date: :func:`receive` costs one request to the stream's
leader for a message of a schedule (about 0.2 ms) and none for any other.
"""

import hashlib
from typing import Final

import msgspec

from natscron.codec.times import ms_to_text
from natscron.messages.changes import Written, put
from natscron.messages.drafts import single_draft
from natscron.messages.fired import Fired, delivered, due_from_schedule, read_fired, stale_from
from natscron.messages.link import Link
from natscron.messages.reading import instant_or_none
from natscron.messages.subjects import same_id
from natscron.messages.values import Duration, due_ms, duration_ns
from natscron.schedule.base import ms_of
from natscron.wire import scheduleheaders as h
from natscron.wire.failures import Message

__all__ = ["acknowledge", "receive", "retry_later"]

_MS_NS: Final = 1_000_000


async def receive(link: Link, message: Message) -> Fired:
    """What a message says, and whether it is stale; it is not acknowledged here."""
    fired = read_fired(message, link.prefix)
    if not fired.id:
        return fired
    newest = await link.newest(same_id(link.prefix, _target(fired, link.prefix), fired.id))
    if newest is None:
        return fired
    stale = stale_from(newest, fired.revision, link.prefix)
    if stale is not None and not fired.manual and (fired.sequence is None or stale < fired.sequence):
        return msgspec.structs.replace(fired, stale=True)
    if fired.due is None and newest.subject == fired.schedule:
        return msgspec.structs.replace(fired, due=instant_or_none(due_from_schedule(message, newest)))
    return fired


def _target(fired: Fired, prefix: str) -> str:
    """The target in the schedule's subject, which the message's own need not be: streams may be republished."""
    return ".".join(fired.schedule[len(prefix) + 1 :].split(".")[:-2])


async def acknowledge(link: Link, message: Message, *, surely: bool) -> None:
    """Acknowledge a message that came from a consumer, if it did. ``surely``: wait until the server has it."""
    if delivered(message) is None:
        return
    own = getattr(message, "ack_sync" if surely else "ack", None)
    if own is not None:
        await own()  # the client's own, which knows its connection and that this message is done
        return
    connection = await link.connection()
    if surely:
        await connection.request(message.reply, b"+ACK", timeout_s=link.timeout_s)
    else:
        await connection.publish(message.reply, b"+ACK")


async def retry_later(link: Link, message: Message, delay: Duration, remember: str) -> Written:
    """Schedule a copy of a message back to its own subject, then acknowledge the message."""
    fired = read_fired(message, link.prefix)
    now_ms = link.clock.now_ms()
    due = due_ms(ms_to_text(now_ms - (-duration_ns(delay, "delay") // _MS_NS)), now_ms)
    found = message.headers or {}
    draft = single_draft(
        message.subject, due, message.data, id=_retry_id(message, fired.attempt), headers=h.own_headers(found)
    )
    del draft.headers[h.DUE]
    if fired.due is not None:
        draft.headers[h.DUE] = ms_to_text(ms_of(fired.due))
    draft.headers[h.ATTEMPT] = str(fired.attempt + 1)
    if found.get(h.TTL) and (await link.facts()).allow_ttl:
        draft.headers[h.SCHEDULE_TTL] = found[h.TTL]
    written = await put(link, draft, remember)
    await acknowledge(link, message, surely=True)
    return written


def _retry_id(message: Message, attempt: int) -> str | None:
    """The same for the same message and try, so that a redelivery replaces what waits instead of adding to it."""
    origin = delivered(message)
    if origin is None:
        return None
    stream = hashlib.blake2b(origin.stream.encode(), digest_size=6).hexdigest()
    return f"retry-{stream}-{origin.sequence}-{attempt}"
