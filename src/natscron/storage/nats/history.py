"""Run records in a stream: ``<prefix>.<job key>``, bounded by the stream's own limits (count per job, age).

Who is authoritative: the stream. On one server records are written in chunks of which only the last one asks for an
acknowledgement: one connection is handled in order, so it proves the chunk. In a cluster each record is acknowledged,
for between two leaders the stream drops what comes, some of a chunk maybe and not its end. What is not known to be
stored, because the link was lost, say, the caller writes again, all of it: readers take the last record of a (run id,
attempt).

Records of all jobs are read from the newest that can match backwards, in windows that double, :data:`SCAN_LIMIT`
sequences at most; one job's records are one filter.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

from natscron.codec.keys import key_of
from natscron.codec.run import decode_run, encode_run
from natscron.errors import MalformedInputError, StorageError, StorageUncertainError, ValidationError
from natscron.ids import ulid_time_ms
from natscron.model import SERVICE_JOB, Ms, Run
from natscron.storage.nats.options import NatsStorageOptions
from natscron.storage.protocol import RunQuery, slot_of
from natscron.wire.connection import Connection
from natscron.wire.consumer import Start, Watch
from natscron.wire.direct import MAX_SUBJECTS, all_messages, last_messages
from natscron.wire.failures import ApiError
from natscron.wire.kv import NO_MESSAGE, entry_of
from natscron.wire.publisher import encode
from natscron.wire.reading import Entry, read_range
from natscron.wire.window import PublishWindow

if TYPE_CHECKING:
    from natscron.wire.replies import PubAck

__all__ = ["NatsHistory"]

logger = logging.getLogger("natscron.storage")

CHUNK: Final = 64
"""Records between two turns for others, about half a millisecond of work; on one server for one acknowledgement too."""
SCAN_LIMIT: Final = 200_000
FIRST_WINDOW: Final = 512
MAX_WINDOW: Final = 20_000
MAX_LIMIT: Final = 10_000
MAX_RECORD: Final = 65_536
"""Bytes of a record; beyond it, its result and its error are cut to :data:`MAX_TEXT` characters each."""
MAX_TEXT: Final = 4_096
SHORT: Final = 4_096
"""Bytes of a record that goes the short way; longer ones wait for room in the client's own buffer."""

READS: Final = 4
"""Reads of last runs at once: each may have a few hundred kilobytes under way."""
DIRECT_S: Final = 1.0
"""How long 1,024 last records may take; an account that forbids direct reads does not answer at all."""
DEEP: Final = 32
"""Jobs whose records are all read to find their last run, in one call: at most 3,200 records by default."""
DEEP_S: Final = 0.5
"""How long that may take: a few milliseconds a job in a stream of a hundred thousand records."""
DEEP_RECORDS: Final = 1_000
"""The most records of a job that are read for that."""

SKEW_MS: Final[Ms] = 60_000
"""How far an instance's clock may be behind the store's for its records to be found by their own time."""

LATE_MS: Final[Ms] = 7_200_000
"""How long after its own time a record may have been stored (NATS was away) and still be found in a long stream."""


def instant_of(run: Run) -> Ms:
    """A record's time: its end, else its beginning, else its slot, else the end of its range."""
    return run.finished_at_ms or run.started_at_ms or run.scheduled_at_ms or run.to_ms or 0


class NatsHistory:
    """The ExecutionStore role."""

    max_record: ClassVar[int] = MAX_RECORD
    """Bytes of a record; beyond it, its result and its error are cut."""

    def __init__(self, connection: Connection, options: NatsStorageOptions, window: PublishWindow) -> None:
        self._connection = connection
        self._options = options
        self._window = window
        self._reading = asyncio.Semaphore(READS)
        self._losses = 0
        self._remove = connection.add_listener(self)

    def close(self) -> None:
        """Listen no more."""
        self._remove()

    def on_down(self) -> None:
        """The link is lost: what was not acknowledged may be lost too."""
        self._losses += 1

    def on_up(self) -> None:
        """Nothing to do."""

    async def save_runs(self, runs: Sequence[Run]) -> None:
        """Append records; returns when they are stored. Raises StorageUncertainError: write all of them again."""
        losses, size = self._losses, 1 if self._connection.cluster else CHUNK
        waiting: list[asyncio.Future[PubAck]] = []
        try:
            for begin in range(0, len(runs), size):
                chunk = runs[begin : begin + size]
                for run in chunk[:-1]:
                    await self._publish(self._subject(run.job), _bounded(run, self.max_record))
                waiting.append(
                    await self._window.publish(self._subject(chunk[-1].job), _bounded(chunk[-1], self.max_record))
                )
                if begin % CHUNK == 0:
                    await asyncio.sleep(0)
            for future in waiting:
                await asyncio.shield(future)
        except StorageError as error:
            # Those before may have arrived, whatever this one says.
            raise StorageUncertainError(f"run records: {error}") from error
        if losses != self._losses:
            raise StorageUncertainError("the connection was lost while run records were written")

    async def _publish(self, subject: str, data: bytes) -> None:
        if len(data) > min(SHORT, self._connection.max_payload):
            await self._connection.publish(subject, data)
        else:
            self._connection.enqueue(encode(subject, (), data))

    async def list_runs(self, query: RunQuery) -> Sequence[Run]:
        """Matching records; of records with the same run id and attempt the last one."""
        if not 1 <= query.limit <= MAX_LIMIT or query.offset < 0:
            raise ValidationError(f"limit must be 1 to {MAX_LIMIT} and offset not negative; got {query.limit}")
        wanted = query.offset + query.limit
        collected = _Collected(query)
        if query.job is not None:
            collected.take(await self._read([self._subject(query.job)], 1, None))
        else:
            await self._scan(collected, wanted if query.descending else SCAN_LIMIT)
        found = sorted(collected.found, key=instant_of, reverse=query.descending)
        return found[query.offset : wanted]

    async def last_runs(self, job_ids: Sequence[str]) -> Mapping[str, Ms]:
        """The slot of each job's newest run; jobs without one are left out. A direct read of 1,024 jobs at a time.

        Where the newest record is about a skipped slot the job's other records are read, for :data:`DEEP` jobs at most.
        """
        subjects = {self._subject(job_id): job_id for job_id in job_ids}
        names = list(subjects)
        found: dict[str, Ms] = {}
        skipped: list[str] = []
        async with self._reading:
            for begin in range(0, len(names), MAX_SUBJECTS):
                chunk = names[begin : begin + MAX_SUBJECTS]
                last = await last_messages(self._connection, self._options.log_stream, chunk, timeout_s=DIRECT_S)
                for subject, data in last.items():
                    run = _readable(subject, data)
                    if run is not None and (slot := slot_of(run)) is not None:
                        found[subjects[subject]] = slot
                    else:
                        skipped.append(subject)
                await asyncio.sleep(0)
            # Best effort: what took too long is left out, and what was found stays.
            with contextlib.suppress(TimeoutError, StorageError):
                async with asyncio.timeout(DEEP_S):
                    for subject in skipped[:DEEP]:
                        if (slot := await self._last_slot(subject)) is not None:
                            found[subjects[subject]] = slot
        return found

    async def _last_slot(self, subject: str) -> Ms | None:
        """The slot of the newest record that is about a run, among all of a job's."""
        stream, limit = self._options.log_stream, min(self._options.log_per_job, DEEP_RECORDS)
        records = await all_messages(self._connection, stream, subject, limit=limit, timeout_s=DIRECT_S)
        for data in reversed(records or ()):
            run = _readable(subject, data)
            if run is not None and (slot := slot_of(run)) is not None:
                return slot
        return None

    def follow_runs(self, job: str | None, fn: Callable[[Run], None]) -> Watch:
        """Call ``fn`` with each new record, live."""
        subject = f"{self._options.log_prefix}.>" if job is None else self._subject(job)
        return Watch(self._connection, self._options.log_stream, [subject], _Follower(fn), Start.NEW)

    async def _scan(self, collected: "_Collected", wanted: int) -> None:
        first, last = await self._bounds(collected.query)
        window = FIRST_WINDOW
        while last >= first and len(collected.found) < wanted:
            start = max(last - window + 1, first)
            collected.take(await self._read([f"{self._options.log_prefix}.>"], start, last))
            last, window = start - 1, min(window * 2, MAX_WINDOW)

    async def _bounds(self, query: RunQuery) -> tuple[int, int]:
        """The sequences between which the records of all jobs have to be looked for, at most SCAN_LIMIT of them."""
        info = await self._connection.js_request(f"STREAM.INFO.{self._options.log_stream}")
        first, last = max(int(info["state"]["first_seq"]), 1), int(info["state"]["last_seq"])
        ends = (first, last + 1)
        if query.until_ms is not None and last - first >= SCAN_LIMIT:
            last = await self._sequence_at(query.until_ms + LATE_MS, *ends) - 1
        slot_ms = _slot_ms(query.run_id)
        since_ms = query.since_ms if slot_ms is None else max(slot_ms, query.since_ms or 0)
        if since_ms is not None:
            first = await self._sequence_at(since_ms - SKEW_MS, *ends)
        if slot_ms is not None:
            # A run is recorded soon after its slot.
            return first, min(last, first + SCAN_LIMIT - 1)
        return max(first, last - SCAN_LIMIT + 1), last

    async def _sequence_at(self, at_ms: Ms, low: int, high: int) -> int:
        """The first sequence stored at ``at_ms`` or later; ``high``: none. Halves the range: about 20 reads."""
        while low < high:
            middle = (low + high) // 2
            request = {"seq": middle, "next_by_subj": ">"}
            try:
                reply = await self._connection.js_request(f"STREAM.MSG.GET.{self._options.log_stream}", request)
            except ApiError as error:
                if error.err_code != NO_MESSAGE:
                    raise
                high = middle
                continue
            entry = entry_of(reply["message"])
            if entry.timestamp_ns // 1_000_000 < at_ms:
                low = entry.seq + 1
            else:
                high = middle
        return low

    async def _read(self, filters: Sequence[str], start: int, until: int | None) -> list[Entry]:
        return await read_range(self._connection, self._options.log_stream, filters, start, until)

    def _subject(self, job: str) -> str:
        return f"{self._options.log_prefix}.{job if job == SERVICE_JOB else key_of(job)}"


def _bounded(run: Run, most: int) -> bytes:
    """The record's bytes; a result or error that is far too long is cut, so that it cannot hold up all the others."""
    raw = encode_run(run)
    if len(raw) <= most:
        return raw
    return encode_run(msgspec.structs.replace(run, result=_cut(run.result), error=_cut(run.error)))


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... ({len(text)} characters)"


class _Collected:
    """Takes entries, later ones first, and keeps the records that match, newest first."""

    def __init__(self, query: RunQuery) -> None:
        self.query = query
        self._seen: set[tuple[str, int]] = set()
        self.found: list[Run] = []

    def take(self, entries: Iterable[Entry]) -> None:
        """Entries in the stream's order, all before those taken so far."""
        for entry in reversed(list(entries)):
            run = _readable(entry.subject, entry.data)
            if run is not None and self._is_new(run) and self._matches(run):
                self.found.append(run)

    def _is_new(self, run: Run) -> bool:
        if run.run_id is None:
            return True
        key = (run.run_id, run.attempt)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def _matches(self, run: Run) -> bool:
        query = self.query
        at_ms = instant_of(run)
        return (
            query.run_id in (None, run.run_id)
            and (query.service or query.job is not None or run.job != SERVICE_JOB)
            and query.status in (None, run.status)
            and (query.since_ms is None or at_ms >= query.since_ms)
            and (query.until_ms is None or at_ms < query.until_ms)
        )


class _Follower:
    """Hands live records over."""

    def __init__(self, fn: Callable[[Run], None]) -> None:
        self._fn = fn

    def on_reset(self) -> None:
        """Live records know no full set."""

    def on_message(
        self,
        subject: str,
        _headers: dict[str, str] | None,
        data: bytes,
        _seq: int,
        _timestamp_ns: int,
    ) -> None:
        run = _readable(subject, data)
        if run is not None:
            self._fn(run)

    def on_complete(self, seq: int) -> None:
        """Not of interest."""


def _slot_ms(run_id: str | None) -> Ms | None:
    """The instant in a run id; None: none was given, or one of another make."""
    if run_id is None:
        return None
    try:
        return ulid_time_ms(run_id)
    except ValueError:
        return None


def _readable(subject: str, data: bytes) -> Run | None:
    try:
        return decode_run(data)
    except MalformedInputError as error:
        logger.debug("record on %s is left out: %s", subject, error)
        return None
