"""The API's reads of jobs: one, a page of them, and when a schedule is due."""

import asyncio
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Final

from natscron.codec import job_view, ms_to_text, text_to_ms
from natscron.codec.spec import read_schedule
from natscron.engine.table import Entry
from natscron.errors import JobNotFoundError, ValidationError
from natscron.model import Job, JobState, Ms
from natscron.schedule import describe, preview, resolve_spec
from natscron.server.admission import schedule_of
from natscron.server.context import Context
from natscron.server.jobs import Input, Reply
from natscron.server.replies import encode
from natscron.server.requests import ListRequest, PreviewRequest, SubjectRequest, read
from natscron.server.subjects import go_accepts, matcher

__all__ = ["Lookups"]

_YIELD_EVERY: Final = 500
_ASK_FOR: Final = 1024
"""Jobs whose last runs are asked for at once."""
_ROOM: Final = 1024
"""Bytes of a reply that are not jobs: braces, ``next``, ``total``, headers."""


class Lookups:
    """Reads, each after the table has caught up."""

    def __init__(self, context: Context) -> None:
        self._engine = context.engine
        self._target = context.target
        self._admission = context.admission
        self._clock = context.clock
        self._fresh = context.fresh
        self._max_reply = context.max_reply

    async def get(self, data: Input) -> Reply:
        """One job."""
        subject = read(SubjectRequest, data).subject
        await self._fresh.catch_up()
        entry = self._entry(subject)
        return self.view(entry, await self._engine.last_runs([subject]))

    async def page(self, data: Input, *, bounded: bool = True) -> Reply:
        """Jobs, oldest change first, as many as fit into one message (if ``bounded``); ``{"jobs":null}`` for none."""
        request = read(ListRequest, data, empty_is_default=True)
        wanted = _filters(request, self._engine.state_of)
        cursor = _cursor(request.cursor)
        await self._fresh.catch_up()
        # From here on the table is read at one moment; only the encoding below takes breaks.
        entries = self._engine.table.entries()
        if wanted:
            kept: list[Entry] = []
            for chunk in _chunks(entries):
                kept += [entry for entry in chunk if all(test(entry) for test in wanted)]
                await asyncio.sleep(0)
            entries = kept
        total = len(entries)
        if not total:
            return {"jobs": None}
        start = bisect_right(entries, cursor, key=_revision)
        stop = total if request.limit is None else min(total, start + request.limit)
        room = max(self._max_reply() - _ROOM, _ROOM) if bounded else None
        shown: list[dict[str, Any]] = []
        async for place, view in self._views(entries, start, stop):
            if room is not None:
                room -= len(encode(view)) + 1
                if room < 0 and shown:
                    stop = place
                    break
            # One job larger than a message is shown without its payload rather than hiding all after it.
            whole = room is None or room >= 0
            shown.append(view if whole else {key: value for key, value in view.items() if key not in _LARGE})
        reply: Reply = {"jobs": shown}
        if stop < total and shown:
            reply["next"] = str(_revision(entries[stop - 1]))
        reply["total"] = total
        return reply

    async def _views(self, entries: list[Entry], start: int, stop: int) -> AsyncIterator[tuple[int, Reply]]:
        """Views with their places, and breaks for others in between."""
        last_runs: Mapping[str, Ms] = {}
        for place in range(start, stop):
            if (place - start) % _ASK_FOR == 0:
                asked = entries[place : min(place + _ASK_FOR, stop)]
                last_runs = await self._engine.last_runs([entry.job.id for entry in asked])
            elif (place - start) % _YIELD_EVERY == 0:
                await asyncio.sleep(0)
            yield place, self.view(entries[place], last_runs)

    async def preview(self, data: Input) -> Reply:
        """When a schedule, or a stored job's, is due next."""
        request = read(PreviewRequest, data)
        now_ms = self._clock.now_ms()
        after_ms = now_ms if request.after is None else text_to_ms(request.after)
        about: tuple[str, ...] = ()
        if request.schedule is not None:
            # The schedule may name calendars, which this instance may not have seen yet.
            if request.schedule.get("except"):
                await self._fresh.catch_up()
            spec, anchor_ms, seed = read_schedule(request.schedule), now_ms, request.subject
        else:
            await self._fresh.catch_up()
            job = self._entry(request.subject).job
            if job.invalid is not None:
                raise ValidationError(f"job {job.id!r} cannot be honoured: {job.invalid}")
            spec, anchor_ms, seed = job.schedule, job.anchor_ms, job.id
            about = _left_out(job, now_ms)
        calendars = self._engine.table.calendars()
        if spec is not None:
            spec = resolve_spec(spec, now_ms, anchor_ms=anchor_ms, seed=seed, calendars=calendars)
        # A stored schedule is read as leniently here as it was when it was loaded: it fires, so it can be shown.
        lenient = request.schedule is None
        warnings = schedule_of(
            spec,
            anchor_ms=anchor_ms,
            seed=seed,
            min_interval_ns=self._admission.min_interval_ns,
            lenient=lenient,
            calendars=calendars,
        )[1]
        assert spec is not None  # noqa: S101 - schedule_of refuses it
        slots = preview(
            spec, after_ms, request.count, anchor_ms=anchor_ms, seed=seed, lenient=lenient, calendars=calendars
        )
        reply: Reply = {
            "slots": [
                {"at": ms_to_text(slot.at_ms), "local": slot.local, "mark": slot.mark}
                | ({"due": slot.due} if slot.due else {})
                for slot in slots
            ],
            "description": describe(spec, seed=seed, lenient=lenient),
        }
        if about or warnings:
            reply["warnings"] = [*about, *warnings]
        return reply

    def view(self, entry: Entry, last_runs: Mapping[str, Ms]) -> Reply:
        """A job as replies show it."""
        job = entry.job
        last_run_ms = last_runs.get(job.id)
        if last_run_ms is not None and job.generation and last_run_ms < job.created_at_ms:
            last_run_ms = None  # of a job that was deleted, and had the same subject
        invalid = job.invalid is not None
        next_run_ms = None if invalid else self._engine.next_run_ms(job.id)  # first: it may find out about a failure
        return job_view(
            job,
            state=self._engine.state_of(entry),
            next_run_ms=next_run_ms,
            last_run_ms=last_run_ms,
            delivery_effective=None if invalid else self._target.delivery_of(job),
            failure=None if entry.schedule is None else entry.schedule.failure,
        )

    def _entry(self, subject: str) -> Entry:
        entry = self._engine.table.get(subject)
        if entry is None:
            go = "nats: key not found" if go_accepts(subject) else "nats: invalid key"
            raise JobNotFoundError(f"{go}: there is no job {subject[:200]!r}")
        return entry


def _left_out(job: Job, now_ms: Ms) -> tuple[str, ...]:
    """What keeps slots that the schedule has from being run."""
    found: list[str] = []
    until_ms = job.paused_until_ms
    if job.paused and until_ms is None:
        found.append("the job is paused: no slot runs until it is resumed")
    elif job.paused and until_ms is not None and until_ms > now_ms:
        found.append(f"the job is paused: no slot runs before {ms_to_text(until_ms)}")
    if job.skip is not None and job.skip.until_ms > now_ms:
        found.append(f"slots up to {ms_to_text(job.skip.until_ms)} are skipped")
    return tuple(found)


_LARGE: Final = frozenset({"payload", "headers", "labels", "note"})


def _revision(entry: Entry) -> int:
    return entry.job.revision


def _chunks(entries: list[Entry]) -> Iterator[list[Entry]]:
    for start in range(0, len(entries), _YIELD_EVERY):
        yield entries[start : start + _YIELD_EVERY]


def _cursor(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 20):  # noqa: PLR2004 - 64 bits
        raise ValidationError(f"cursor {text[:40]!r} is none of ours; give the 'next' of the page before")
    return int(text)


def _filters(request: ListRequest, state_of: Callable[[Entry], JobState]) -> list[Callable[[Entry], bool]]:
    tests: list[Callable[[Entry], bool]] = []
    if request.pattern:
        hit = matcher(request.pattern)
        tests.append(lambda entry: hit(entry.job.id))
    if request.label:
        name, equals, value = request.label.partition("=")
        if not name:
            raise ValidationError(f"label {request.label[:80]!r} names no label; give NAME or NAME=VALUE")
        if equals:
            tests.append(lambda entry: entry.job.labels.get(name) == value)
        else:
            tests.append(lambda entry: name in entry.job.labels)
    if request.state is not None:
        tests.append(lambda entry: state_of(entry) is request.state)
    return tests
