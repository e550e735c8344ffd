"""Jobs, and the calendars they refer to, in a KV bucket that the Go version can share.

Who is authoritative: the bucket's stream. Every write carries the sequence it expects where the caller named one, so
of two writers one is refused and nothing is lost. A delete leaves a tombstone, so that watchers learn of it; tombstones
older than an hour are purged by :meth:`NatsJobs.sweep_tombstones`, and a fresh watch is compared with a full set, so
nobody needs them.

A write that got no answer raises StorageUncertainError and is not repeated here: the caller reads before it writes.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from natscron.clock import Clock
from natscron.codec.calendar import PREFIX as CALENDARS
from natscron.codec.calendar import calendar_key, calendar_name_of, decode_calendar, encode_calendar
from natscron.codec.keys import id_of, key_of
from natscron.codec.row import decode_row, encode_row
from natscron.errors import (
    CalendarNotFoundError,
    JobAlreadyExistsError,
    JobNotFoundError,
    LimitExceededError,
    StorageError,
    WrongRevisionError,
)
from natscron.model import Calendar, Job, Ms, Stamp
from natscron.storage.nats.options import NatsStorageOptions
from natscron.storage.protocol import JobSink
from natscron.wire.connection import Connection
from natscron.wire.consumer import Watch
from natscron.wire.failures import ApiError
from natscron.wire.kv import cas_headers, delete_headers, get_last, is_deleted, is_wrong_sequence, last_seq, purge
from natscron.wire.reading import Entry
from natscron.wire.window import PublishWindow

__all__ = ["NatsJobs"]

logger = logging.getLogger("natscron.storage")

TOMBSTONE_AGE_MS: Final[Ms] = 3_600_000
SWEEP_LIMIT: Final = 1_000


MAX_TRIES: Final = 5
"""How often a compare-and-set that lost a race is begun again."""


MAX_KEY: Final = 1_024
"""Characters of a key. A line of the protocol may have 4,096, and a longer one costs the whole connection."""


def job_key(job_id: str) -> str:
    """The key of a job id. Raises LimitExceededError over :data:`MAX_KEY`."""
    key = key_of(job_id)
    if len(key) > MAX_KEY:
        raise LimitExceededError(f"the id {job_id[:40]!r}... makes a key of {len(key)} characters; at most {MAX_KEY}")
    return key


def stamp_of(seq: int, timestamp_ns: int) -> Stamp:
    """The store's time and sequence; whole milliseconds, rounded down."""
    return Stamp(timestamp_ns // 1_000_000, seq)


class NatsJobs:
    """The JobStore role. ``window`` bounds the writes in flight."""

    decode: Callable[[str, bytes, Stamp], Job] = staticmethod(decode_row)
    """How a row is read."""

    def __init__(
        self, connection: Connection, options: NatsStorageOptions, window: PublishWindow, clock: Clock
    ) -> None:
        self._connection = connection
        self._options = options
        self._window = window
        self._clock = clock
        self._tombstones: dict[str, tuple[int, Ms]] = {}
        """Keys whose last message says gone: its sequence and time. As many as the bucket holds."""

    async def create_job(self, job: Job) -> int:
        """Write a job that must not exist; its revision. Raises JobAlreadyExistsError."""
        revision = await self._create(job_key(job.id), encode_row(job))
        if revision is None:
            raise JobAlreadyExistsError(f"job with subject {job.id} already exists")
        return revision

    async def put_job(self, job: Job, expected_revision: int | None = None) -> int:
        """Write a job; its revision. Raises WrongRevisionError. 0 expects that there is none."""
        return await self._put(job_key(job.id), encode_row(job), expected_revision, f"job {job.id}")

    async def delete_job(self, job_id: str, expected_revision: int | None = None) -> None:
        """Delete. Raises JobNotFoundError (nothing is written then) and WrongRevisionError."""
        if not await self._delete(_job_keys(job_id), expected_revision, f"job {job_id}"):
            raise JobNotFoundError(f"no job with subject {job_id}")

    async def fetch_job(self, job_id: str) -> Job | None:
        """The job from the stream's leader."""
        key, found = await self._find(_job_keys(job_id))
        return None if found is None else self.decode(key, found.data, stamp_of(found.seq, found.timestamp_ns))

    async def put_calendar(self, calendar: Calendar, expected_revision: int | None = None) -> int:
        """Write a calendar; its revision. Raises WrongRevisionError. 0 expects that there is none."""
        key, value = calendar_key(calendar.name), encode_calendar(calendar)
        return await self._put(key, value, expected_revision, f"calendar {calendar.name}")

    async def delete_calendar(self, name: str, expected_revision: int | None = None) -> None:
        """Delete. Raises CalendarNotFoundError (nothing is written then) and WrongRevisionError."""
        if not await self._delete((calendar_key(name),), expected_revision, f"calendar {name}"):
            raise CalendarNotFoundError(f"there is no calendar {name!r}")

    async def fetch_calendar(self, name: str) -> Calendar | None:
        """The calendar from the stream's leader."""
        key, found = await self._find((calendar_key(name),))
        return None if found is None else decode_calendar(key, found.data, stamp_of(found.seq, found.timestamp_ns))

    async def last_jobs_seq(self) -> int:
        """The sequence of the last write to the jobs, deletes included."""
        return await last_seq(self._connection, self._options.jobs_stream)

    def watch_jobs(self, sink: JobSink) -> Watch:
        """Follow the jobs."""
        prefix = self._options.jobs_prefix
        adapter = _Adapter(sink, prefix, self._tombstones, self.decode)
        return Watch(self._connection, self._options.jobs_stream, [prefix + ">"], adapter)

    def watch_calendars(self, sink: JobSink) -> Watch:
        """Follow the calendars alone."""
        prefix = self._options.jobs_prefix
        return Watch(
            self._connection,
            self._options.jobs_stream,
            [f"{prefix}{CALENDARS}>"],
            _Adapter(sink, prefix, {}, self.decode),
        )

    async def sweep_tombstones(self) -> int:
        """Purge tombstones older than an hour, at most 1,000 a call; how many.

        Only those that a watch of this instance has seen. A row written meanwhile has a higher sequence and stays.
        """
        before = self._clock.now_ms() - TOMBSTONE_AGE_MS
        old = [(key, seq) for key, (seq, at_ms) in self._tombstones.items() if at_ms <= before][:SWEEP_LIMIT]
        swept = 0
        for key, seq in old:
            subject = self._options.jobs_prefix + key
            try:
                await purge(self._connection, self._options.jobs_stream, subject, below_seq=seq + 1)
            except StorageError as error:
                logger.warning("tombstones cannot be purged now: %s", error)
                break
            if self._tombstones.get(key, (0, 0))[0] == seq:
                del self._tombstones[key]
            swept += 1
        return swept

    async def _put(self, key: str, value: bytes, expected: int | None, what: str) -> int:
        if expected == 0:
            revision = await self._create(key, value)
            if revision is None:
                raise WrongRevisionError(f"{what} exists; revision 0 expects that it does not")
            return revision
        try:
            return await self._write(key, value, {} if expected is None else cas_headers(expected))
        except ApiError as error:
            if expected is not None and is_wrong_sequence(error):
                raise WrongRevisionError(f"{what} is not at revision {expected}") from error
            raise

    async def _create(self, key: str, value: bytes) -> int | None:
        """The revision, or None when there is a row."""
        expected = 0
        for _ in range(MAX_TRIES):
            try:
                return await self._write(key, value, cas_headers(expected))
            except ApiError as error:
                if not is_wrong_sequence(error):
                    raise
            found = await get_last(self._connection, self._options.jobs_stream, self._options.jobs_prefix + key)
            if found is not None and not is_deleted(found.headers):
                return None
            # A tombstone has a sequence of its own; a purged one has none.
            expected = 0 if found is None else found.seq
        return None

    async def _delete(self, keys: Sequence[str], expected: int | None, what: str) -> bool:
        """Whether there was a row."""
        for _ in range(MAX_TRIES):
            key, found = await self._find(keys)
            if found is None:
                return False
            if expected is not None and found.seq != expected:
                raise WrongRevisionError(f"{what} is at revision {found.seq}, not at {expected}")
            try:
                await self._write(key, b"", delete_headers(found.seq))
            except ApiError as error:
                if not is_wrong_sequence(error):
                    raise
            else:
                return True
        raise WrongRevisionError(f"{what} changed {MAX_TRIES} times while it was being deleted")

    async def _find(self, keys: Sequence[str]) -> tuple[str, Entry | None]:
        """The first of ``keys`` with a row, and the row."""
        for key in keys:
            found = await get_last(self._connection, self._options.jobs_stream, self._options.jobs_prefix + key)
            if found is not None and not is_deleted(found.headers):
                return key, found
        return keys[0], None

    async def _write(self, key: str, value: bytes, headers: Mapping[str, str]) -> int:
        future = await self._window.publish(self._options.jobs_prefix + key, value, headers or None)
        # Shielded: a caller that is cancelled stops waiting, and the window still gets its answer.
        return (await asyncio.shield(future)).seq


def _job_keys(job_id: str) -> tuple[str, ...]:
    """The id's own key, and the id itself where a Go row may use a key that is reserved now."""
    key = job_key(job_id)
    if job_id == key or not job_id.startswith("_") or calendar_name_of(job_id) is not None:
        return (key,)
    return key, job_id


class _Adapter:
    """From messages to jobs and calendars."""

    def __init__(
        self,
        sink: JobSink,
        prefix: str,
        tombstones: dict[str, tuple[int, Ms]],
        decode: Callable[[str, bytes, Stamp], Job],
    ) -> None:
        self._decode = decode
        self._sink = sink
        self._cut = len(prefix)
        self._tombstones = tombstones

    def on_reset(self) -> None:
        self._tombstones.clear()
        self._sink.reset()

    def on_message(
        self, subject: str, headers: dict[str, str] | None, data: bytes, seq: int, timestamp_ns: int
    ) -> None:
        key = subject[self._cut :]
        stamp = stamp_of(seq, timestamp_ns)
        calendar = calendar_name_of(key)
        if is_deleted(headers):
            self._tombstones[key] = (seq, stamp.at_ms)
            if calendar is None:
                self._sink.delete(id_of(key), seq)
            else:
                self._sink.delete_calendar(calendar, seq)
            return
        self._tombstones.pop(key, None)
        if calendar is None:
            self._sink.put(self._decode(key, data, stamp))
        else:
            self._sink.put_calendar(decode_calendar(key, data, stamp))

    def on_complete(self, seq: int) -> None:
        self._sink.complete(seq)
