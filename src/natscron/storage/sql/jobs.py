"""Jobs and calendars: one order of writes.

Who is authoritative: the counter ``jobs``. Whoever writes holds its row from the first look to COMMIT, so writes of all
processes come one after the other and their numbers become visible in their order. What waits is done together
(:mod:`natscron.storage.sql.batches`).

A job may also be put into a transaction of the caller's own (:mod:`natscron.storage.sql.submit`), which takes no
number. Its row has revision 0 and is *adopted*, given a number, by whoever comes upon it first: a watch, a read, a
write. Its stamp is the insert's time and the adoption's number. Rows that the Go library writes come in the same way.

A row that such a transaction still holds cannot be seen, and a write to its id would wait for it with the counter in
hand. So writes wait for a row 250 ms at the most; a batch that had to is done again write by write,
and the one that met it fails with StorageUnavailableError. On SQLite there is one writer, and that transaction is it:
there everybody waits, up to ``busy_timeout``.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Table, bindparam, delete, exists, insert, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

from natscron.codec import encode_row
from natscron.codec.calendar import encode_calendar
from natscron.errors import StorageError, StorageUnavailableError
from natscron.model import Calendar, Job, Ms
from natscron.storage.sql import numbers
from natscron.storage.sql.batches import Batches
from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.database import Database
from natscron.storage.sql.failures import is_disconnect, is_lock_timeout, is_transient
from natscron.storage.sql.rows import (
    CALENDAR_COLUMNS,
    GO_COLUMNS,
    JOB_COLUMNS,
    calendar_of,
    calendar_values,
    check_id,
    check_name,
    job_of,
    job_values,
)
from natscron.storage.sql.schema import calendars, jobs, removed
from natscron.storage.sql.signals import CHANNEL, Signals, Topic
from natscron.storage.sql.writes import Kind, Plan, Write, plan

__all__ = ["SqlJobs", "has_strangers"]

log = logging.getLogger("natscron.storage")

_BATCH: Final = 256
_ADOPT: Final = 1_000
"""Rows adopted in one transaction."""
_SWEEP: Final = 1_000
_SWEEPS: Final = 100
"""Deletions forgotten in one transaction, and such transactions in one sweep."""
_RACES: Final = 3
"""How often a batch is decided anew because somebody else inserted a row of it meanwhile."""
_TABLES: Final = {Kind.JOB: (jobs, jobs.c.id), Kind.CALENDAR: (calendars, calendars.c.name)}
_NOW_AND_WAIT: Final = text(
    "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint, set_config('lock_timeout', '250ms', true)"
)
_SET_AND_NOTIFY: Final = text(
    f"UPDATE scheduler_meta SET number = :value WHERE name = '{numbers.JOBS}'"  # noqa: S608 - own names
    f" RETURNING pg_notify('{CHANNEL}', '{Topic.JOBS.value}')"
)


class SqlJobs:
    """The JobStore role, but for its watch."""

    def __init__(self, database: Database, signals: Signals) -> None:
        self._database = database
        self._signals = signals
        self._batches: Batches[Write, int] = Batches(self._write, limit=_BATCH, name="natscron job writes")

    async def close(self) -> None:
        """Write what waits."""
        await self._batches.close()

    async def create_job(self, job: Job) -> int:
        """Write a job that must not exist; its revision. Raises JobAlreadyExistsError."""
        return await self._batches.do(self._job_write(job, create=True))

    async def put_job(self, job: Job, expected_revision: int | None = None) -> int:
        """Write a job; its revision. Raises WrongRevisionError. 0 expects that there is none."""
        return await self._batches.do(self._job_write(job, expected=expected_revision))

    async def delete_job(self, job_id: str, expected_revision: int | None = None) -> None:
        """Delete. Raises JobNotFoundError and WrongRevisionError."""
        check_id(job_id)
        await self._batches.do(Write(Kind.JOB, job_id, None, expected_revision))

    async def fetch_job(self, job_id: str) -> Job | None:
        """The stored job."""
        check_id(job_id)
        found = await self._fetch(jobs.c.id == job_id)
        if found is not None and not found.revision:
            await self.adopt()
            found = await self._fetch(jobs.c.id == job_id)
        return found

    async def put_calendar(self, calendar: Calendar, expected_revision: int | None = None) -> int:
        """Write a calendar; its revision. Raises WrongRevisionError. 0 expects that there is none."""
        encode_calendar(calendar)  # raises here what is wrong with it
        write = Write(Kind.CALENDAR, calendar.name, lambda now: calendar_values(calendar, now), expected_revision)
        return await self._batches.do(write)

    async def delete_calendar(self, name: str, expected_revision: int | None = None) -> None:
        """Delete. Raises CalendarNotFoundError and WrongRevisionError."""
        check_name(name)
        await self._batches.do(Write(Kind.CALENDAR, name, None, expected_revision))

    async def fetch_calendar(self, name: str) -> Calendar | None:
        """The stored calendar."""
        check_name(name)

        async def work(connection: AnyConnection) -> Any:  # noqa: ANN401 - a row
            return (await connection.execute(select(*CALENDAR_COLUMNS).where(calendars.c.name == name))).one_or_none()

        row = await self._database.read(work)
        return None if row is None else calendar_of(row)

    async def last_jobs_seq(self) -> int:
        """The number of the last write; rows that have none yet get theirs first."""

        async def work(connection: AnyConnection) -> tuple[int, bool]:
            return await numbers.read(connection, numbers.JOBS), await has_strangers(connection)

        number, strangers = await self._database.read(work)
        return await self.adopt() if strangers else number

    async def adopt(self) -> int:
        """Give the rows that have no number theirs; the number of the last write."""

        async def work(connection: AnyConnection) -> tuple[int, int]:
            number = await numbers.hold(connection, numbers.JOBS)
            found = await self._adopt(connection, number, jobs.c.revision == 0)
            return number + found, found

        total, found = 0, _ADOPT
        while found == _ADOPT:
            number, found = await self._database.run(work)
            total += found
        if total:
            log.info("took in jobs that others wrote", extra={"jobs": total})
            self._signals.ring(Topic.JOBS)
        return number

    async def sweep(self, before_ms: Ms) -> None:
        """Forget what was deleted before an instant; who has not followed until then is handed everything anew."""

        async def work(connection: AnyConnection) -> int:
            await numbers.hold(connection, numbers.SWEPT)
            old = select(removed.c.revision).where(removed.c.stored_ms < before_ms).order_by(removed.c.revision)
            found = (await connection.execute(old.limit(_SWEEP))).scalars().all()
            if found:
                await numbers.set_number(connection, numbers.SWEPT, found[-1])
                await connection.execute(delete(removed).where(removed.c.revision <= found[-1]))
            return len(found)

        for _ in range(_SWEEPS):
            if await self._database.run(work) < _SWEEP:
                break

    def _job_write(self, job: Job, *, expected: int | None = None, create: bool = False) -> Write:
        check_id(job.id, database=self._database.name)
        row_data = encode_row(job)
        return Write(Kind.JOB, job.id, lambda now: job_values(job, now, row_data), expected, create)

    async def _fetch(self, condition: ColumnElement[bool]) -> Job | None:
        async def work(connection: AnyConnection) -> Job | None:
            row = (await connection.execute(select(*JOB_COLUMNS).where(condition))).one_or_none()
            if row is None:
                return None
            go = None if row.row_data is not None else (await connection.execute(GO_COLUMNS.where(condition))).one()
            return job_of(row, go)

        return await self._database.read(work)

    # One batch.

    async def _write(self, writes: Sequence[Write]) -> Sequence[int | Exception]:
        try:
            outcomes = await self._write_together(writes)
        except StorageUnavailableError as error:
            if len(writes) == 1 or _away(error):
                raise
            # One of them waits for somebody's open transaction, or is refused: it alone shall fail.
            log.debug("a batch of writes is done one by one", extra={"error": str(error)})
            outcomes = await self._write_one_by_one(writes)
        self._signals.ring(Topic.JOBS)
        return outcomes

    async def _write_one_by_one(self, writes: Sequence[Write]) -> list[int | Exception]:
        outcomes: list[int | Exception] = []
        for i, write in enumerate(writes):
            try:
                outcomes += await self._write_together([write])
            except StorageError as error:
                outcomes.append(error)
                if _away(error):
                    left = len(writes) - i - 1
                    return [*outcomes, *(StorageUnavailableError(str(error)) for _ in range(left))]
        return outcomes

    async def _write_together(self, writes: Sequence[Write]) -> list[int | Exception]:
        async def work(connection: AnyConnection) -> list[int | Exception]:
            number = await numbers.hold(connection, numbers.JOBS)
            now = await self._now(connection)
            try:
                there = await self._there(connection, writes)
                if 0 in there.values():
                    number += await self._adopt(connection, number, _those(Kind.JOB, writes) & (jobs.c.revision == 0))
                    there = await self._there(connection, writes)
                planned = plan(writes, there, number, now)
                await self._carry_out(connection, planned)
            except DBAPIError as error:
                if is_lock_timeout(error):
                    raise _RowHeldError(f"{self._database.where}: a transaction that is open holds the row") from error
                raise
            return planned.outcomes

        for _ in range(_RACES):
            try:
                return await self._database.run(work)
            except StorageUnavailableError as error:
                # Somebody who takes no numbers was faster with a row that was not there.
                if not isinstance(error.__cause__, IntegrityError):
                    raise
                failure = error
            except (TypeError, ValueError, ArithmeticError) as error:
                # The driver could not make anything of a value; nothing was sent.
                raise StorageUnavailableError(f"{self._database.where}: {type(error).__name__}") from error
        raise failure

    async def _now(self, connection: AnyConnection) -> Ms:
        """The database's time; from here on a row that somebody holds is waited for a moment only."""
        if self._database.name == "postgresql":
            return int((await connection.execute(_NOW_AND_WAIT)).one()[0])
        return await self._database.now_ms(connection)

    async def _there(self, connection: AnyConnection, writes: Sequence[Write]) -> Mapping[tuple[Kind, str], int]:
        found: dict[tuple[Kind, str], int] = {}
        for kind, (table, key) in _TABLES.items():
            if any(write.kind is kind for write in writes):
                query = select(key, table.c.revision).where(_those(kind, writes))
                if self._database.name == "mysql":
                    # Also of rows that cannot be seen yet, which an insert would wait for. By the key, or a look over
                    # the whole of a small table would meet those of others.
                    for dialect in ("mysql", "mariadb"):
                        query = query.with_hint(table, "FORCE INDEX (PRIMARY)", dialect)
                    query = query.with_for_update(nowait=True)
                found |= {(kind, row[0]): row[1] for row in await connection.execute(query)}
        return found

    async def _carry_out(self, connection: AnyConnection, planned: Plan) -> None:
        for kind, (table, key) in _TABLES.items():
            gone = [name for one, name in planned.deletes if one is kind]
            if gone:
                await connection.execute(delete(table).where(key.in_(gone)))
            new = [values for (one, _), values in planned.inserts.items() if one is kind]
            if new:
                await connection.execute(insert(table), new)
            changed = [values for (one, _), values in planned.updates.items() if one is kind]
            if changed:
                await _update(connection, table, key, changed)
        if planned.removed:
            await connection.execute(insert(removed), planned.removed)
        if any(isinstance(outcome, int) for outcome in planned.outcomes):
            await self._set_number(connection, planned.number)

    async def _set_number(self, connection: AnyConnection, number: int) -> None:
        """Set the counter and tell other processes."""
        if self._database.name == "postgresql":
            await connection.execute(_SET_AND_NOTIFY, {"value": number})
        else:
            await numbers.set_number(connection, numbers.JOBS, number)

    async def _adopt(self, connection: AnyConnection, number: int, which: ColumnElement[bool]) -> int:
        """How many of these rows were given a number; the caller holds the counter."""
        query = select(jobs.c.id, jobs.c.stored_ms).where(which).order_by(jobs.c.stored_ms, jobs.c.id).limit(_ADOPT)
        strangers = (await connection.execute(query)).all()
        if not strangers:
            return 0
        now = await self._database.now_ms(connection)
        adopted = [
            {"id": row.id, "revision": number + i, "stored_ms": row.stored_ms or now}
            for i, row in enumerate(strangers, 1)
        ]
        await _update(connection, jobs, jobs.c.id, adopted)
        await self._set_number(connection, number + len(adopted))
        return len(adopted)


class _RowHeldError(StorageUnavailableError):
    """A row is held by somebody's open transaction."""


def _away(error: StorageError) -> bool:
    """The database is not there, or not free, for any write, whatever it writes."""
    cause = error.__cause__
    if isinstance(error, _RowHeldError) or isinstance(cause, TypeError | ValueError | ArithmeticError):
        return False
    return not isinstance(cause, StatementError) or is_disconnect(cause) or is_transient(cause)


async def has_strangers(connection: AnyConnection) -> bool:
    """Whether there are rows without a number."""
    return bool((await connection.execute(_STRANGERS)).scalar_one())


_STRANGERS: Final = select(exists().where(jobs.c.revision == 0))


def _those(kind: Kind, writes: Sequence[Write]) -> ColumnElement[bool]:
    return _TABLES[kind][1].in_([write.id for write in writes if write.kind is kind])


async def _update(
    connection: AnyConnection, table: Table, key: ColumnElement[str], values: Sequence[dict[str, Any]]
) -> None:
    """Update rows by their primary key."""
    name = key.key or ""
    columns = [column for column in values[0] if column != name]
    statement = (
        update(table).where(key == bindparam("the_key")).values({column: bindparam(column) for column in columns})
    )
    await connection.execute(
        statement, [{"the_key": one[name], **{column: one[column] for column in columns}} for one in values]
    )
