"""What several unit tests share: a service without a network, on a store in memory."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
import pytest

from natscron.clock import SystemClock
from natscron.codec import decode_calendar, decode_row, encode_calendar, encode_row, key_of
from natscron.codec.calendar import calendar_key
from natscron.engine.engine import EngineStatus
from natscron.engine.freshness import Freshness
from natscron.engine.table import Entry, JobTable
from natscron.errors import (
    BackfillNotFoundError,
    CalendarNotFoundError,
    JobAlreadyExistsError,
    JobNotFoundError,
    StorageUnavailableError,
    WrongRevisionError,
)
from natscron.ids import ulid
from natscron.model import (
    Backfill,
    Calendar,
    Job,
    JobState,
    Mark,
    OpenRow,
    OpenState,
    Overlap,
    Report,
    Run,
    Stamp,
    Trigger,
)
from natscron.server.admission import Admission
from natscron.server.api import Answer, endpoints
from natscron.server.calls import Calls
from natscron.server.context import Context
from natscron.server.delivery import StreamMap, SubjectTarget
from natscron.server.limits import Limits
from natscron.server.subjects import SubjectPolicy
from natscron.storage.protocol import RunQuery, Storage


class Store:
    """Jobs as bytes under keys, with a sequence; each write is in the table when it returns, unless told to lag."""

    def __init__(self, table: JobTable) -> None:
        self.seq = 0
        self.lag = False
        self.down = False
        self.lookups = 0
        self.gate: asyncio.Event | None = None
        self.rows: dict[str, Job] = {}
        self.calendars: dict[str, Calendar] = {}
        self.runs: list[Run] = []
        self._table = table

    def write(self, key: str, value: bytes) -> int:
        self.seq += 1
        job = decode_row(key, value, Stamp(1_700_000_000_000 + self.seq, self.seq))
        self.rows.pop(job.id, None)
        self.rows[job.id] = job
        if not self.lag:
            self._table.put(job)
            self._table.complete(self.seq)
        return self.seq

    async def _breath(self) -> None:
        await asyncio.sleep(0)
        if self.down:
            raise StorageUnavailableError("the store is away")

    async def create_job(self, job: Job) -> int:
        await self._breath()
        if job.id in self.rows:
            raise JobAlreadyExistsError(job.id)
        return self.write(key_of(job.id), encode_row(job))

    async def put_job(self, job: Job, expected_revision: int | None = None) -> int:
        await self._breath()
        present = self.rows.get(job.id)
        if expected_revision is not None and (present.revision if present else 0) != expected_revision:
            raise WrongRevisionError(job.id)
        return self.write(key_of(job.id), encode_row(job))

    async def delete_job(self, job_id: str, expected_revision: int | None = None) -> None:
        await self._breath()
        present = self.rows.get(job_id)
        if present is None:
            raise JobNotFoundError(job_id)
        if expected_revision is not None and present.revision != expected_revision:
            raise WrongRevisionError(job_id)
        del self.rows[job_id]
        self.seq += 1
        self._table.delete(job_id, self.seq)
        self._table.complete(self.seq)

    async def fetch_job(self, job_id: str) -> Job | None:
        await self._breath()
        return self.rows.get(job_id)

    async def put_calendar(self, calendar: Calendar, expected_revision: int | None = None) -> int:
        await self._breath()
        present = self.calendars.get(calendar.name)
        if expected_revision is not None and (present.revision if present else 0) != expected_revision:
            raise WrongRevisionError(calendar.name)
        return self.write_calendar(calendar_key(calendar.name), encode_calendar(calendar))

    def write_calendar(self, key: str, value: bytes) -> int:
        self.seq += 1
        row = decode_calendar(key, value, Stamp(1_700_000_000_000 + self.seq, self.seq))
        self.calendars[row.name] = row
        if not self.lag:
            self._table.put_calendar(row)
            self._table.complete(self.seq)
        return self.seq

    async def delete_calendar(self, name: str, expected_revision: int | None = None) -> None:
        await self._breath()
        present = self.calendars.get(name)
        if present is None:
            raise CalendarNotFoundError(name)
        if expected_revision is not None and present.revision != expected_revision:
            raise WrongRevisionError(name)
        del self.calendars[name]
        self.seq += 1
        self._table.delete_calendar(name, self.seq)
        self._table.complete(self.seq)

    async def fetch_calendar(self, name: str) -> Calendar | None:
        await self._breath()
        return self.calendars.get(name)

    async def last_jobs_seq(self) -> int:
        self.lookups += 1
        seq = self.seq
        await self._breath()
        if self.gate is not None:
            await self.gate.wait()
        return seq

    async def list_runs(self, query: RunQuery) -> Sequence[Run]:
        await self._breath()
        found = [
            run
            for run in self.runs
            if query.job in (None, run.job)
            and query.run_id in (None, run.run_id)
            and query.status in (None, run.status)
        ]
        if query.descending:
            found.reverse()
        return found[query.offset : query.offset + query.limit]


class Engine:
    """Knows the table and nothing of time."""

    def __init__(self, policy: SubjectPolicy) -> None:
        self.table = JobTable(10_000_000, lambda job: policy.refusal(job.id))
        self.is_leader = False
        self.mark: Mark | None = None
        self.ran: dict[str, int] = {}
        self.asked: list[int] = []
        self.asked_runs: dict[str, Run] = {}
        self.triggered: list[tuple[str, Any, str | None, Overlap | None]] = []
        self.reported: list[tuple[str, str, Report]] = []
        self.going: list[OpenRow] = []
        self.recorded: list[Run] = []

    def status(self) -> EngineStatus:
        return EngineStatus(
            is_leader=False,
            leader="i2",
            epoch=3,
            mark_ms=1_700_000_000_000,
            instances=["i1", "i2"],
            jobs=len(self.table),
            lateness_p50_ms=0.5,
            lateness_p99_ms=None,
            started_at_ms=SystemClock().now_ms(),
            blocked=None,
            warnings=["w"],
        )

    async def last_runs(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        await asyncio.sleep(0)
        self.asked.append(len(job_ids))
        return {job_id: self.ran[job_id] for job_id in job_ids if job_id in self.ran}

    def next_run_ms(self, job_id: str) -> int | None:
        entry = self.table.get(job_id)
        return None if entry is None or entry.schedule is None else entry.schedule.next_after_ms(1_800_000_000_000)

    def state_of(self, entry: Entry) -> JobState:
        if entry.schedule is None or entry.schedule.failure is not None:
            return JobState.INVALID
        return JobState.PAUSED if entry.job.paused else JobState.ACTIVE

    async def trigger(
        self,
        job_id: str,
        payload: Any = msgspec.UNSET,  # noqa: ANN401 - any JSON value
        key: str | None = None,
        overlap: Overlap | None = None,
    ) -> str:
        self.triggered.append((job_id, payload, key, overlap))
        return ulid(1_700_000_000_000)

    async def asked_for(self, run_id: str) -> Run | None:
        return self.asked_runs.get(run_id)

    async def report(self, run_id: str, job_id: str, report: Report) -> None:
        self.reported.append((run_id, job_id, report))

    async def backfill(
        self, job_id: str, from_ms: int, to_ms: int, *, every_ms: int, overlap: Overlap | None, key: str | None
    ) -> OpenRow:
        known = next((row for row in self.going if row.run_id == key), None)
        if known is not None:
            return known
        row = OpenRow(
            run_id=key or ulid(1_700_000_000_000),
            job_id=job_id,
            generation=1,
            scheduled_at_ms=from_ms - 1,
            state=OpenState.BACKFILL,
            trigger=Trigger.BACKFILL,
            overlap=overlap,
            backfill=Backfill(from_ms=from_ms, to_ms=to_ms, every_ms=every_ms, total=7),
        )
        self.going.append(row)
        return row

    def waiting(self, job_id: str) -> Sequence[OpenRow]:
        return [row for row in self.going if row.job_id == job_id]

    def backfills(self) -> Sequence[OpenRow]:
        return self.going

    async def cancel_backfill(self, backfill_id: str) -> None:
        if backfill_id not in {row.run_id for row in self.going}:
            raise BackfillNotFoundError(f"no backfill {backfill_id!r} is going on")
        self.going = [row for row in self.going if row.run_id != backfill_id]

    def record(self, run: Run) -> None:
        self.recorded.append(run)


class World:
    """A service without a network."""

    def __init__(self, limits: Limits | None = None, max_reply: int = 1 << 20) -> None:
        policy = SubjectPolicy.for_service("nats-cron")
        self.engine = Engine(policy)
        self.store = Store(self.engine.table)
        self.streams = StreamMap()
        store = cast("Storage", self.store)
        context = Context(
            name="nats-cron",
            instance_id="i1",
            store=store,
            engine=self.engine,
            target=SubjectTarget(policy, self.streams),
            admission=Admission(policy, limits or Limits(), self.streams, 10_000_000),
            clock=SystemClock(),
            fresh=Freshness(store, self.engine.table, timeout_s=0.2),
            max_reply=lambda: max_reply,
            on_saved=lambda _job: None,
            notes=lambda: ["n"],
        )
        self.calls = Calls(context)
        self.all = endpoints(self.calls)

    async def ask(self, subject: str, data: bytes | dict[str, Any] = b"") -> Answer:
        endpoint = next(one for one in self.all if one.subject == subject)
        return await endpoint.answer(data if isinstance(data, bytes) else json.dumps(data).encode())

    async def body(self, subject: str, data: bytes | dict[str, Any] = b"") -> Any:  # noqa: ANN401 - any JSON value
        answer = await self.ask(subject, data)
        assert answer.code == 0, answer
        return json.loads(answer.body)

    async def error(self, subject: str, data: bytes | dict[str, Any] = b"") -> tuple[int, str, str]:
        answer = await self.ask(subject, data)
        assert answer.code != 0, answer
        body = json.loads(answer.body)
        assert set(body) == {"error", "code"}
        assert body["code"] == str(answer.code)
        return answer.code, answer.description, body["error"]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def many() -> World:
    world = World(max_reply=20_000)
    for n in range(200):
        label = '"labels":{"team":"red"},' if n % 2 else ""
        world.store.write(f"j.{n}", b'{"subject":"j.%d",%s"schedule":{"every":"30s"}}' % (n, label.encode()))
    return world


@pytest.fixture(scope="session")
def make_world() -> type[World]:
    """For worlds with limits of their own."""
    return World
