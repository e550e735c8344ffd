"""Writing, replacing and cancelling schedules: one write each, and what is left where it cannot be one.

See the package for the protocol. All functions here act on the schedule of one id. What stands under it is
read from the stream's leader, and the write that follows holds only if that is still so (the server compares the last
sequence under all subjects of the id); else it is read again, at most :data:`TRIES` times.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Final, NamedTuple

from natscron.codec.times import ms_to_text
from natscron.errors import StorageError, StorageUnavailableError
from natscron.messages.drafts import Draft
from natscron.messages.link import Link
from natscron.messages.reading import due_of
from natscron.messages.records import Publication
from natscron.messages.subjects import Place, check_outside, check_subject, next_revision, place_of, same_id
from natscron.messages.values import body_of, headers_of, ttl_text
from natscron.wire import scheduleheaders as h
from natscron.wire.kv import is_wrong_sequence, purge
from natscron.wire.reading import Entry
from natscron.wire.replies import PubAck
from natscron.wire.stored import stored_messages

__all__ = ["CLOSE_MS", "TRIES", "Current", "Written", "cancel", "current", "publish_now", "put"]

logger = logging.getLogger("natscron.messages")

TRIES: Final = 16
BACKOFF_S: Final = 0.005
_MOST: Final = 64
"""Messages that are looked at under one id."""
CLOSE_MS: Final = 60_000
"""Nearer to its due time than this, a schedule may be firing at the moment, whatever this host's clock says."""


class Written(NamedTuple):
    """A schedule that was stored."""

    place: Place
    seq: int
    replaced: bool


class Current(NamedTuple):
    """What stands under an id."""

    newest: Entry | None
    """The last message: a schedule, or the trace of a cancelled or replaced one."""
    live: Entry | None
    """The schedule that will fire."""


async def current(link: Link, subjects: str) -> Current:
    """Read it from the stream's leader."""
    newest = await link.newest(subjects)
    if newest is None:
        return Current(None, None)
    found = newest.headers or {}
    if h.SCHEDULE in found:
        return Current(newest, newest)
    place = place_of(link.prefix, newest.subject)
    revision = found.get(h.LIVE)
    if revision is not None and place is not None:
        live = await link.newest(Place(link.prefix, place.target, place.id, revision).subject)
        return Current(newest, live if live is not None and h.SCHEDULE in (live.headers or {}) else None)
    if h.CANCELLED in found:
        return Current(newest, None)
    # Not ours: the server's own marker for a trace that has gone, say. The schedule may stand before it.
    live, seen = None, 0
    async for entry in stored_messages(
        await link.connection(), link.stream, subjects, direct=False, timeout_s=link.timeout_s
    ):
        live = entry if h.SCHEDULE in (entry.headers or {}) else live
        seen += 1
        if seen >= _MOST:
            break
    return Current(newest, live)


async def put(link: Link, draft: Draft, remember: str) -> Written:
    """Store a schedule, in the place of the one with its id. ``remember``: how long a trace stays."""
    facts = await link.facts(draft.needs)
    check_outside(draft.target, link.prefix)
    if draft.id is None:
        revision = next_revision(None, link.clock.now_ms())
        place = Place(link.prefix, draft.target, revision, revision)
        stored = await link.publish(place.subject, draft.headers | h.expect(link.stream), draft.body)
        return Written(place, stored.seq, replaced=False)
    subjects = same_id(link.prefix, draft.target, draft.id)
    state = Current(None, None)
    for attempt in range(TRIES):
        if attempt:
            await asyncio.sleep(BACKOFF_S * (attempt - 1))
            state = await current(link, subjects)
        revision = next_revision(_revision(link, state.newest), link.clock.now_ms())
        place = Place(link.prefix, draft.target, draft.id, revision)
        headers = draft.headers | _guard(link, state, subjects)
        if state.live is not None and facts.atomic:
            headers |= h.purging(state.live.subject)
        ack = await _try(link, place.subject, headers, draft.body)
        if ack is None:
            continue
        if not facts.atomic:
            await _beside(_sweep(link, subjects, ack.seq))
        if state.live is not None and draft.single and facts.allow_ttl and _close(link, state.live):
            await _beside(_trace(link, place, ack.seq, remember, live=revision))
        return Written(place, ack.seq, replaced=state.live is not None)
    raise _restless(draft.target, draft.id)


async def cancel(link: Link, target: str, id: str, publication: Publication | None, remember: str) -> bool:  # noqa: A002 - the field's name
    """Cancel a schedule, publishing ``publication`` in the same step; False: it was not there, nothing was done."""
    facts = await link.facts()
    subjects = same_id(link.prefix, target, id)
    if publication is not None:
        check_subject(publication.subject, "subject")
        check_outside(publication.subject, link.prefix, "subject")
    for attempt in range(TRIES):
        await asyncio.sleep(BACKOFF_S * attempt)
        state = await current(link, subjects)
        live = state.live
        if live is None:
            return False
        traced = facts.allow_ttl and _close(link, live)
        place = _place(link, target, id, live)
        if publication is not None:
            headers = headers_of(publication.headers) | h.purging(live.subject)
            if publication.ttl is not None:
                headers[h.TTL] = ttl_text(publication.ttl)
            headers |= {h.CANCELLED: place.revision} | _unless_changed(link, state, live, subjects)
            done = await _try(link, publication.subject, headers, body_of(publication.body)) is not None
            if done and traced:
                await _beside(_trace(link, place, live.seq, remember))
        elif traced:
            done = await _try(link, *_tracing(link, place, state, subjects, remember)) is not None
        else:
            done = await purge(await link.connection(), link.stream, live.subject) > 0
        if done:
            if not facts.atomic:
                await _beside(_sweep(link, subjects, live.seq))
            return True
    raise _restless(target, id)


async def publish_now(link: Link, target: str, id: str, *, keep: bool | None, remember: str) -> int | None:  # noqa: A002 - the field's name
    """Publish a schedule's message now; its sequence in the stream. None: the schedule is not there.

    ``keep`` False cancels the schedule in the same step; None: that of a single message is, a recurring one stays.
    """
    facts = await link.facts()
    subjects = same_id(link.prefix, target, id)
    for attempt in range(TRIES):
        await asyncio.sleep(BACKOFF_S * attempt)
        state = await current(link, subjects)
        live = state.live
        if live is None:
            return None
        found = live.headers or {}
        headers, body = h.generated_headers(found), live.data
        if found.get(h.SOURCE):
            sampled = await link.newest(found[h.SOURCE])
            if sampled is not None:
                headers, body = h.generated_headers(sampled.headers), sampled.data
        if found.get(h.SCHEDULE_TTL):
            headers[h.TTL] = found[h.SCHEDULE_TTL]
        if found.get(h.SCHEDULE_ROLLUP):
            headers[h.ROLLUP] = found[h.SCHEDULE_ROLLUP]
        stays = due_of(found) is None if keep is None else keep
        if stays:
            headers = {h.DUE: ms_to_text(link.clock.now_ms())} | headers
            headers |= {h.MANUAL: live.subject} | h.expect(link.stream)
        else:
            headers |= h.purging(live.subject) | _unless_changed(link, state, live, subjects)
        ack = await _try(link, found[h.TARGET], headers, body)
        if ack is None:
            continue
        if not stays and facts.allow_ttl and _close(link, live):
            await _beside(_trace(link, _place(link, target, id, live), live.seq, remember))
        return ack.seq
    raise _restless(target, id)


def _restless(target: str, id: str) -> StorageUnavailableError:  # noqa: A002 - the field's name
    return StorageUnavailableError(
        f"schedule {id!r} for {target}: others changed it {TRIES} times while this call tried to; try again"
    )


async def _try(link: Link, subject: str, headers: dict[str, str], body: bytes) -> PubAck | None:
    """Publish; None: what the write depended on has changed. Raises as :meth:`Link.publish`."""
    try:
        return await link.publish(subject, headers, body)
    except StorageUnavailableError as error:
        if is_wrong_sequence(error):
            return None
        raise


def _revision(link: Link, entry: Entry | None) -> str | None:
    place = place_of(link.prefix, entry.subject) if entry is not None else None
    return place.revision if place is not None else None


def _place(link: Link, target: str, id: str, entry: Entry) -> Place:  # noqa: A002 - the field's name
    return Place(link.prefix, target, id, _revision(link, entry) or "")


def _guard(link: Link, state: Current, subjects: str) -> dict[str, str]:
    """Headers for a write that holds only while nothing else was written, and that says what it follows."""
    if state.newest is None:
        return h.expect(link.stream, 0, subjects)
    follows = f"{_revision(link, state.newest)} {state.newest.seq}"
    if state.live is not None:
        follows = f"{_revision(link, state.live)} {state.live.seq}"
    elif h.LIVE in (state.newest.headers or {}):  # that one has fired, and the trace says what it followed
        follows = (state.newest.headers or {}).get(h.REPLACES, follows)
    return {h.REPLACES: follows} | h.expect(link.stream, state.newest.seq, subjects)


def _unless_changed(link: Link, state: Current, live: Entry, subjects: str) -> dict[str, str]:
    """Headers for a write that holds only while ``live`` is there: if a trace is behind it, by its own subject."""
    if state.newest is live:
        return h.expect(link.stream, live.seq, subjects)
    return h.expect(link.stream, live.seq, live.subject)


def _close(link: Link, live: Entry) -> bool:
    """Whether a schedule may be firing at this moment."""
    due = due_of(live.headers)
    return due is None or due - link.clock.now_ms() <= CLOSE_MS


async def _sweep(link: Link, subjects: str, below: int) -> None:
    """Servers before 2.14: remove the revisions before the one with the sequence ``below``, by a write of its own."""
    await purge(await link.connection(), link.stream, subjects, below_seq=below)


async def _beside(work: Awaitable[None]) -> None:
    """What comes after a write that holds already: where it fails, a worker drops what it would have prevented."""
    try:
        await work
    except StorageError as error:
        logger.warning("a schedule was written, but not all that goes with it: %s", error)


def _tracing(
    link: Link, place: Place, state: Current, subjects: str, remember: str
) -> tuple[str, dict[str, str], bytes]:
    """The message that cancels what stands at ``place`` and is its trace."""
    revision = next_revision(_revision(link, state.newest), link.clock.now_ms())
    headers = _guard(link, state, subjects) | h.purging(place.subject)
    headers |= {h.CANCELLED: place.revision, h.TTL: remember}
    return Place(place.prefix, place.target, place.id, revision).subject, headers, b""


async def _trace(link: Link, place: Place, seq: int, remember: str, *, live: str = "") -> None:
    """Leave a trace of what was cancelled or replaced just now, unless the id has been written to meanwhile.

    ``place`` and ``seq``: the revision that it follows. ``live``: that revision is the one that will fire.
    """
    newest = await link.newest(place.filter)
    if newest is not None and newest.seq > seq:
        return
    revision = next_revision(place.revision, link.clock.now_ms())
    headers = {h.CANCELLED: place.revision, h.REPLACES: f"{place.revision} {seq}", h.TTL: remember}
    if live:
        headers |= {h.CANCELLED: "", h.LIVE: live}
    headers |= h.expect(link.stream, newest.seq if newest is not None else 0, place.filter)
    await _try(link, Place(place.prefix, place.target, place.id, revision).subject, headers, b"")
