"""The history of runs that handlers execute, in the log stream: found, sorted, deleted, taken over from elsewhere.

One job's records are one filter. Records of all jobs are read from the end of the log backwards, in windows that
double, until no earlier record can be among those asked for: a run is recorded after it began, so what was stored
before the earliest of those found began is not among them. That goes for records by their own time, newest first; any
other order needs a look at all records, :data:`~natscron.storage.nats.history.SCAN_LIMIT` of the newest at most.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import ClassVar, Final

from natscron.codec.run import encode_run
from natscron.errors import StorageError, StorageUncertainError, ValidationError
from natscron.model import SERVICE_JOB, Ms, Run, RunStatus
from natscron.storage.nats.history import (
    DIRECT_S,
    FIRST_WINDOW,
    MAX_LIMIT,
    MAX_WINDOW,
    SKEW_MS,
    NatsHistory,
    _readable,
)
from natscron.storage.protocol import RunOrder, RunQuery, recorded_ms
from natscron.storage.queue import record_id
from natscron.wire.consumer import Start, Watch
from natscron.wire.direct import MAX_SUBJECTS, last_messages
from natscron.wire.failures import ApiError
from natscron.wire.reading import Entry

__all__ = ["IMPORTED", "LibraryHistory"]

IMPORTED: Final = "Natscron-Imported"
"""A header of records that come from another store: who follows new ones is not told of them."""
_NO_MESSAGE: Final = frozenset({10037, 10043})
_AHEAD_MS: Final[Ms] = 1_000
"""How far a record's own time may be ahead of when it was stored: workers go by what they know of the store's clock."""
_AT_ONCE: Final = 64
_PATIENCE_S: Final = 5.0
_PAUSE_S: Final = 0.2
_ENDS: Final = 200_000
_DEEP: Final = 32
_NO_END: Final = frozenset({RunStatus.SKIPPED, RunStatus.RUNNING, RunStatus.PENDING})
_OPEN: Final = frozenset({RunStatus.RUNNING, RunStatus.PENDING})

_ORDERS: Final[Mapping[RunOrder, Callable[[Run], Ms]]] = {
    RunOrder.RECORDED: recorded_ms,
    RunOrder.START_TIME: lambda run: run.started_at_ms or 0,
    RunOrder.END_TIME: lambda run: run.finished_at_ms or 0,
    RunOrder.DURATION: lambda run: -1 if run.duration_ms is None else run.duration_ms,
}


class LibraryHistory(NatsHistory):
    """The ExecutionStore role of the library."""

    max_record: ClassVar[int] = 524_288

    async def list_runs(self, query: RunQuery, open_runs: Iterable[Run] = ()) -> Sequence[Run]:
        """Matching records, and of ``open_runs`` those whose try has no record; the last record of a try counts."""
        if not 1 <= query.limit <= MAX_LIMIT or query.offset < 0:
            raise ValidationError(f"limit must be 1 to {MAX_LIMIT} and offset not negative; got {query.limit}")
        wanted = query.offset + query.limit
        found = _Found(query)
        # First what is not over: what ends in between is then found in the log.
        still = list(open_runs)
        if query.job is not None:
            found.take(await self._read([self._subject(query.job)], 1, None))
        else:
            await self._look_back(found, wanted)
        found.add_open(still)
        runs = sorted(found.runs, key=_ORDERS[query.order], reverse=query.descending)
        return runs[query.offset : wanted]

    async def _look_back(self, found: "_Found", wanted: int) -> None:
        query = found.query
        first, last = await self._bounds(query)
        window = FIRST_WINDOW
        newest_first = query.order is RunOrder.RECORDED and query.descending
        while last >= first:
            start = max(last - window + 1, first)
            entries = await self._read([f"{self._options.log_prefix}.>"], start, last)
            found.take(entries)
            if newest_first and len(found.runs) >= wanted and entries:
                found.runs.sort(key=recorded_ms, reverse=True)
                if recorded_ms(found.runs[wanted - 1]) > entries[0].timestamp_ns // 1_000_000 + _AHEAD_MS:
                    return
            last, window = start - 1, min(window * 2, MAX_WINDOW)

    async def _read(self, filters: Sequence[str], start: int, until: int | None) -> list[Entry]:
        """As above, and again while the cluster chooses a leader, :data:`_PATIENCE_S` at most."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _PATIENCE_S
        while True:
            try:
                return await super()._read(filters, start, until)
            except StorageError:
                if loop.time() >= give_up:
                    raise
                await asyncio.sleep(_PAUSE_S)

    async def ended_since(self, since_ms: Ms) -> Sequence[str]:
        """The ids of runs that ended since an instant, the newest :data:`_ENDS` records looked at."""
        info = await self._connection.js_request(f"STREAM.INFO.{self._options.log_stream}")
        first, last = max(int(info["state"]["first_seq"]), 1), int(info["state"]["last_seq"])
        start = max(await self._sequence_at(since_ms - SKEW_MS, first, last + 1), last - _ENDS + 1)
        ids: set[str] = set()
        while start <= last:
            until = min(start + MAX_WINDOW - 1, last)
            for entry in await self._read([f"{self._options.log_prefix}.>"], start, until):
                run = _readable(entry.subject, entry.data)
                if run is not None and run.run_id is not None and run.status not in _OPEN:
                    ids.add(run.run_id)
            start = until + 1
        return tuple(ids)

    async def newest_try(self, job: str, run_id: str) -> Run | None:
        """The record of a run's newest try; None: there is none."""
        runs = await self.list_runs(RunQuery(job=job, run_id=run_id, limit=MAX_LIMIT))
        return max(runs, key=lambda run: run.attempt, default=None)

    async def last_ends(self, jobs: Sequence[str], *, deep: int = _DEEP) -> Mapping[str, Run]:
        """The newest record of each job whose newest is that of a run that was not left out; a direct read.

        Where it was left out, all records of the job are read, for ``deep`` jobs at most.
        """
        subjects = {self._subject(job): job for job in jobs}
        names, found = list(subjects), dict[str, Run]()
        for begin in range(0, len(names), MAX_SUBJECTS):
            chunk = names[begin : begin + MAX_SUBJECTS]
            last = await last_messages(self._connection, self._options.log_stream, chunk, timeout_s=DIRECT_S)
            for subject, data in last.items():
                run = _readable(subject, data)
                if run is not None and run.status is RunStatus.SKIPPED and deep > 0:
                    deep -= 1
                    runs = await self.list_runs(RunQuery(job=run.job, order=RunOrder.END_TIME, limit=MAX_LIMIT))
                    run = next((one for one in runs if one.status is not RunStatus.SKIPPED), None)
                if run is not None and run.status not in _NO_END and run.run_id is not None:
                    found[subjects[subject]] = run
            await asyncio.sleep(0)
        return found

    async def delete_runs(self, job: str, before_ms: Ms) -> Sequence[Run]:
        """Delete a job's records with a time at or before; the runs that they were of, each (run, attempt) once."""
        entries = await self._read([self._subject(job)], 1, None)
        gone: dict[str, Run] = {}
        seqs: list[int] = []
        for entry in entries:
            run = _readable(entry.subject, entry.data)
            if run is not None and recorded_ms(run) <= before_ms:
                gone[record_id(run)] = run
                seqs.append(entry.seq)
        for begin in range(0, len(seqs), _AT_ONCE):
            await asyncio.gather(*(self._delete(seq) for seq in seqs[begin : begin + _AT_ONCE]))
        return tuple(gone.values())

    async def _delete(self, seq: int) -> None:
        try:
            request = {"seq": seq, "no_erase": True}
            await self._connection.js_request(f"STREAM.MSG.DELETE.{self._options.log_stream}", request)
        except ApiError as error:
            if error.err_code not in _NO_MESSAGE:  # it went by itself, or another deleted it
                raise

    async def import_runs(self, runs: Sequence[Run], open_runs: Iterable[Run], *, dry_run: bool) -> list[bool]:
        """Store records of another store that are not here; for each whether it was (or would be) stored."""
        known: dict[str, set[str]] = {}
        still = list(open_runs)
        taken: list[bool] = []
        new: list[Run] = []
        for run in runs:
            if run.job not in known:
                entries = await self._read([self._subject(run.job)], 1, None)
                here = [one for entry in entries if (one := _readable(entry.subject, entry.data)) is not None]
                known[run.job] = {record_id(one) for one in [*here, *(one for one in still if one.job == run.job)]}
            name = record_id(run)
            taken.append(name not in known[run.job])
            if taken[-1]:
                known[run.job].add(name)
                new.append(run)
        if not dry_run:
            losses = self._losses
            futures = [
                await self._window.publish(self._subject(run.job), encode_run(run), {IMPORTED: "1"})
                for run in sorted(new, key=recorded_ms)
            ]
            for future in futures:
                await asyncio.shield(future)
            if losses != self._losses:
                raise StorageUncertainError("the connection was lost while records were written")
        return taken

    def follow_runs(self, job: str | None, fn: Callable[[Run], None]) -> Watch:
        """Call ``fn`` with each new record, live."""
        subject = f"{self._options.log_prefix}.>" if job is None else self._subject(job)
        return Watch(self._connection, self._options.log_stream, [subject], _Follower(fn), Start.NEW)


class _Found:
    """Takes entries, later ones first, and keeps the records that match."""

    def __init__(self, query: RunQuery) -> None:
        self.query = query
        self.runs: list[Run] = []
        self._seen: set[tuple[str, int]] = set()

    def take(self, entries: Sequence[Entry]) -> None:
        """Entries in the stream's order, all before those taken so far."""
        for entry in reversed(entries):
            run = _readable(entry.subject, entry.data)
            if run is not None and self._is_new(run) and self._matches(run):
                self.runs.append(run)

    def add_open(self, runs: Iterable[Run]) -> None:
        """Runs that are not over."""
        self.runs += [run for run in runs if self._is_new(run) and self._matches(run)]

    def _is_new(self, run: Run) -> bool:
        if run.run_id is None:
            return True
        key = (run.run_id, run.attempt)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def _matches(self, run: Run) -> bool:
        query, at = self.query, recorded_ms(run)
        return (
            query.job in (None, run.job)
            and query.run_id in (None, run.run_id)
            and (query.service or query.job is not None or run.job != SERVICE_JOB)
            and query.status in (None, run.status)
            and (query.since_ms is None or at >= query.since_ms)
            and (query.until_ms is None or at < query.until_ms)
        )


class _Follower:
    """Hands live records over."""

    def __init__(self, fn: Callable[[Run], None]) -> None:
        self._fn = fn

    def on_reset(self) -> None:
        """Live records know no full set."""

    def on_message(
        self, subject: str, headers: dict[str, str] | None, data: bytes, _seq: int, _timestamp_ns: int
    ) -> None:
        if headers is not None and IMPORTED in headers:
            return
        run = _readable(subject, data)
        if run is not None:
            self._fn(run)

    def on_complete(self, seq: int) -> None:
        """Not of interest."""
