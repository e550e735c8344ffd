"""Jobs in a KV bucket that the Go version can share.

Who is authoritative: the bucket's stream. Every write carries the sequence it expects where the caller named one, so
of two writers one is refused and nothing is lost. A delete leaves a tombstone, so that watchers learn of it; tombstones
older than an hour are purged by :meth:`NatsJobs.sweep_tombstones`, and a fresh watch is compared with a full set, so
nobody needs them.

A write that got no answer raises StorageUncertainError and is not repeated here: the caller reads before it writes.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from natscron.clock import Clock
from natscron.codec.keys import id_of, key_of
from natscron.codec.row import decode_row, encode_row
from natscron.errors import (
    JobAlreadyExistsError,
    JobNotFoundError,
    LimitExceededError,
    StorageError,
    WrongRevisionError,
)
from natscron.model import Job, Ms, Stamp
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
        revision = await self._create(job)
        if revision is None:
            raise JobAlreadyExistsError(f"job with subject {job.id} already exists")
        return revision

    async def put_job(self, job: Job, expected_revision: int | None = None) -> int:
        """Write a job; its revision. Raises WrongRevisionError. 0 expects that there is none."""
        if expected_revision == 0:
            revision = await self._create(job)
            if revision is None:
                raise WrongRevisionError(f"job {job.id} exists; revision 0 expects that it does not")
            return revision
        if expected_revision is None:
            return await self._write(job_key(job.id), encode_row(job), {})
        try:
            return await self._write(job_key(job.id), encode_row(job), cas_headers(expected_revision))
        except ApiError as error:
            if is_wrong_sequence(error):
                raise WrongRevisionError(f"job {job.id} is not at revision {expected_revision}") from error
            raise

    async def delete_job(self, job_id: str, expected_revision: int | None = None) -> None:
        """Delete. Raises JobNotFoundError (nothing is written then) and WrongRevisionError."""
        for _ in range(MAX_TRIES):
            key, found = await self._find(job_id)
            if found is None:
                raise JobNotFoundError(f"no job with subject {job_id}")
            if expected_revision is not None and found.seq != expected_revision:
                raise WrongRevisionError(f"job {job_id} is at revision {found.seq}, not at {expected_revision}")
            try:
                await self._write(key, b"", delete_headers(found.seq))
            except ApiError as error:
                if not is_wrong_sequence(error):
                    raise
            else:
                return
        raise WrongRevisionError(f"job {job_id} changed {MAX_TRIES} times while it was being deleted")

    async def fetch_job(self, job_id: str) -> Job | None:
        """The job from the stream's leader."""
        key, found = await self._find(job_id)
        return None if found is None else decode_row(key, found.data, stamp_of(found.seq, found.timestamp_ns))

    async def last_jobs_seq(self) -> int:
        """The sequence of the last write to the jobs, deletes included."""
        return await last_seq(self._connection, self._options.jobs_stream)

    def watch_jobs(self, sink: JobSink) -> Watch:
        """Follow the jobs."""
        prefix = self._options.jobs_prefix
        adapter = _Adapter(sink, prefix, self._tombstones)
        return Watch(self._connection, self._options.jobs_stream, [prefix + ">"], adapter)

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

    async def _create(self, job: Job) -> int | None:
        """The revision, or None when the job exists."""
        key, value = job_key(job.id), encode_row(job)
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

    async def _find(self, job_id: str) -> tuple[str, Entry | None]:
        """The row under the id's own key, or under the id itself where a Go row uses a key that is reserved now."""
        key = job_key(job_id)
        for candidate in dict.fromkeys((key, job_id) if job_id.startswith("_") else (key,)):
            subject = self._options.jobs_prefix + candidate
            found = await get_last(self._connection, self._options.jobs_stream, subject)
            if found is not None and not is_deleted(found.headers):
                return candidate, found
        return key, None

    async def _write(self, key: str, value: bytes, headers: Mapping[str, str]) -> int:
        future = await self._window.publish(self._options.jobs_prefix + key, value, headers or None)
        # Shielded: a caller that is cancelled stops waiting, and the window still gets its answer.
        return (await asyncio.shield(future)).seq


class _Adapter:
    """From messages to jobs."""

    def __init__(self, sink: JobSink, prefix: str, tombstones: dict[str, tuple[int, Ms]]) -> None:
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
        if is_deleted(headers):
            self._tombstones[key] = (seq, stamp.at_ms)
            self._sink.delete(id_of(key), seq)
        else:
            self._tombstones.pop(key, None)
            self._sink.put(decode_row(key, data, stamp))

    def on_complete(self, seq: int) -> None:
        self._sink.complete(seq)
