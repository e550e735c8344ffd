"""Run records in a stream: ``<prefix>.<job key>``, bounded by the stream's own limits (count per job, age).

Who is authoritative: the stream. Records are written in chunks of which only the last one asks for an acknowledgement:
one connection is handled in order, so it proves the chunk. If the link was lost meanwhile, nobody knows, and the caller
writes all of them again: readers take the last record of a (run id, attempt).

Records of all jobs are read from the stream's end backwards, in windows that double, at most :data:`SCAN_LIMIT`
sequences back; one job's records are one filter.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

from natscron.codec.keys import key_of
from natscron.codec.run import decode_run, encode_run
from natscron.errors import MalformedInputError, StorageUncertainError, ValidationError
from natscron.model import Ms, Run
from natscron.storage.nats.options import SERVICE_JOB, NatsStorageOptions
from natscron.storage.protocol import RunQuery
from natscron.wire.connection import Connection
from natscron.wire.consumer import Start, Watch
from natscron.wire.kv import last_seq
from natscron.wire.reading import Entry, read_range
from natscron.wire.window import PublishWindow

if TYPE_CHECKING:
    from natscron.wire.replies import PubAck

__all__ = ["NatsHistory"]

logger = logging.getLogger("natscron.storage")

CHUNK: Final = 128
SCAN_LIMIT: Final = 200_000
FIRST_WINDOW: Final = 512
MAX_WINDOW: Final = 20_000
MAX_LIMIT: Final = 10_000

SKEW_MS: Final[Ms] = 60_000
"""How far an instance's clock may be behind the store's for its records to be found by their own time."""


def instant_of(run: Run) -> Ms:
    """A record's time: its end, else its beginning, else its slot, else the end of its range."""
    return run.finished_at_ms or run.started_at_ms or run.scheduled_at_ms or run.to_ms or 0


class NatsHistory:
    """The ExecutionStore role."""

    def __init__(self, connection: Connection, options: NatsStorageOptions, window: PublishWindow) -> None:
        self._connection = connection
        self._options = options
        self._window = window
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
        losses = self._losses
        waiting: list[asyncio.Future[PubAck]] = []
        for begin in range(0, len(runs), CHUNK):
            chunk = runs[begin : begin + CHUNK]
            for run in chunk[:-1]:
                await self._connection.publish(self._subject(run.job), encode_run(run))
            waiting.append(await self._window.publish(self._subject(chunk[-1].job), encode_run(chunk[-1])))
        for future in waiting:
            await asyncio.shield(future)
        if losses != self._losses:
            raise StorageUncertainError("the connection was lost while run records were written")

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

    def follow_runs(self, job: str | None, fn: Callable[[Run], None]) -> Watch:
        """Call ``fn`` with each new record, live."""
        subject = f"{self._options.log_prefix}.>" if job is None else self._subject(job)
        return Watch(self._connection, self._options.log_stream, [subject], _Follower(fn), Start.NEW)

    async def _scan(self, collected: "_Collected", wanted: int) -> None:
        until = await last_seq(self._connection, self._options.log_stream)
        end = max(until - SCAN_LIMIT, 0)
        window = FIRST_WINDOW
        while until > end and len(collected.found) < wanted and not collected.exhausted:
            start = max(until - window, end) + 1
            collected.take(await self._read([f"{self._options.log_prefix}.>"], start, until))
            until, window = start - 1, min(window * 2, MAX_WINDOW)

    async def _read(self, filters: Sequence[str], start: int, until: int | None) -> list[Entry]:
        return await read_range(self._connection, self._options.log_stream, filters, start, until)

    def _subject(self, job: str) -> str:
        return f"{self._options.log_prefix}.{job if job == SERVICE_JOB else key_of(job)}"


class _Collected:
    """Takes entries, later ones first, and keeps the records that match, newest first."""

    def __init__(self, query: RunQuery) -> None:
        self._query = query
        self._seen: set[tuple[str, int]] = set()
        self.found: list[Run] = []
        self.exhausted = False
        """Everything before is older than was asked for."""

    def take(self, entries: Iterable[Entry]) -> None:
        """Entries in the stream's order, all before those taken so far."""
        query = self._query
        for entry in reversed(list(entries)):
            if query.since_ms is not None and entry.timestamp_ns // 1_000_000 < query.since_ms - SKEW_MS:
                self.exhausted = True
                return
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
        query = self._query
        at_ms = instant_of(run)
        return (
            query.run_id in (None, run.run_id)
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


def _readable(subject: str, data: bytes) -> Run | None:
    try:
        return decode_run(data)
    except MalformedInputError as error:
        logger.debug("record on %s is left out: %s", subject, error)
        return None
