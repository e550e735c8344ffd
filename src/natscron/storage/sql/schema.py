"""The tables.

``scheduler_jobs`` and ``scheduler_executions`` begin with the columns of the Go library, which reads and writes them;
ours follow, each with a default or nullable, so that a row the Go library wrote is a row. Instants of ours are whole
milliseconds since 1970 UTC in a BIGINT: MySQL's DATETIME would drop the fraction, and a run's id hangs on it. The Go
columns of instants are filled in for people and for other programs; nothing here is decided by them.

One row per *try* of a run in ``scheduler_executions``, which is queue and history at once. ``execution_id`` is the run
id, with ``.2`` and so on behind it for further tries, so that a scheduled slot can be queued once only. Its ``status``
has three words for what waits, all shown as pending: ``pending`` (may be claimed), ``later`` (not before ``queue_ms``)
and ``held`` (not before another run of the job has ended). So a claim, a look at what comes next and a release each
read one short stretch of an index, however many others wait.

``scheduler_meta`` holds the counters that order all writes. A counter's row is updated in the transaction that takes a
number from it, so numbers become visible in their order.
"""

import datetime as dt
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator, TypeEngine

__all__ = [
    "calendars",
    "executions",
    "jobs",
    "lease",
    "meta",
    "metadata",
    "nodes",
    "notes",
    "open_rows",
    "removed",
    "workers",
]

metadata: Final = MetaData()


class _Json(mysql.LONGBLOB):
    """JSON as bytes. Sent as text, which becomes the same: aiomysql 0.3.2 cannot send bytes with PyMySQL 1.2.1."""

    def bind_processor(self, dialect: Dialect) -> Callable[[bytes | None], str | None]:
        """From bytes to text."""
        del dialect
        return lambda value: None if value is None else value.decode(errors="surrogateescape")


_BLOB = LargeBinary().with_variant(_Json(), "mysql", "mariadb")
_LONG = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_ID = String(255).with_variant(mysql.VARCHAR(255, collation="utf8mb4_bin"), "mysql", "mariadb")
"""Compared byte by byte, as everywhere else: MySQL's default would take ``Job`` and ``job`` for one."""


class GoTime(TypeDecorator[dt.datetime]):
    """An instant in a column of the Go library; aware, in UTC. SQLite has no type for it: there Go writes text."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """TIMESTAMPTZ, DATETIME(3), or text."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(Text())
        if dialect.name == "postgresql":
            return dialect.type_descriptor(DateTime(timezone=True))
        return dialect.type_descriptor(mysql.DATETIME(fsp=3))

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> Any:  # noqa: ANN401 - what the driver takes
        """As the driver wants it."""
        if value is None:
            return None
        utc = value.astimezone(dt.UTC)
        if dialect.name == "sqlite":
            return utc.strftime("%Y-%m-%d %H:%M:%S.%f+00:00")
        return utc if dialect.name == "postgresql" else utc.replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> dt.datetime | None:  # noqa: ANN401 - what the driver gives
        """Aware, in UTC; what Go wrote as text may carry nanoseconds and any offset. None for what cannot be read."""
        del dialect
        if value is None:
            return None
        if isinstance(value, str):
            return _read_text(value)
        moment: dt.datetime = value
        return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


def _read_text(value: str) -> dt.datetime | None:
    text = value.strip()
    head, dot, tail = text.partition(".")
    if dot:
        digits = len(tail) - len(tail.lstrip("0123456789"))
        text = f"{head}.{tail[:digits][:6]}{tail[digits:]}"
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


jobs: Final = Table(
    "scheduler_jobs",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("schedule_type", String(50)),
    Column("schedule_config", Text),
    Column("status", String(20)),
    Column("next_run", GoTime),
    Column("last_run", GoTime),
    Column("created_at", GoTime),
    Column("updated_at", GoTime),
    Column("metadata", _LONG),
    # The job as natscron.codec writes it; NULL: a row of the Go library, whose columns say what it is.
    Column("row_data", _BLOB),
    # The write's number and the database's time of it: the row's stamp. 0: written by somebody who could not take a
    # number (the Go library, a caller's own transaction), and still to be given one.
    Column("revision", BigInteger, nullable=False, server_default="0"),
    Column("stored_ms", BigInteger, nullable=False, server_default="0"),
    Index("ix_scheduler_jobs_revision", "revision"),
)

calendars: Final = Table(
    "scheduler_calendars",
    metadata,
    Column("name", _ID, primary_key=True),
    Column("row_data", _BLOB, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("stored_ms", BigInteger, nullable=False),
    Index("ix_scheduler_calendars_revision", "revision"),
)

# What was deleted, so that whoever follows by number learns of it. ``kind``: job or calendar. Swept after a while; the
# number up to which it was swept stands in scheduler_meta, and who is behind that reads everything anew.
removed: Final = Table(
    "scheduler_removed",
    metadata,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(10), nullable=False),
    Column("id", _ID, nullable=False),
    Column("stored_ms", BigInteger, nullable=False),
)

executions: Final = Table(
    "scheduler_executions",
    metadata,
    Column("execution_id", _ID, primary_key=True),
    Column("job_id", _ID),
    Column("start_time", GoTime),
    Column("end_time", GoTime),
    # Nanoseconds, as Go has it.
    Column("duration", BigInteger),
    # The Go library's words, and ours: see RunStatus.
    Column("status", String(20)),
    Column("error", _LONG),
    Column("metadata", _LONG),
    # Ours. ``run_id`` NULL: a row of the Go library, or a record that is about no run.
    Column("run_id", _ID),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("generation", BigInteger),
    Column("scheduled_ms", BigInteger),
    Column("due_ms", BigInteger),
    Column("started_ms", BigInteger),
    Column("finished_ms", BigInteger),
    # What the history is sorted by (natscron.storage.protocol.recorded_ms); NULL: a Go row that is to be adopted.
    Column("recorded_ms", BigInteger),
    Column("reason", String(64)),
    Column("run_trigger", String(16)),
    Column("delivery", String(16)),
    Column("lateness_ms", BigInteger),
    Column("instance", String(255)),
    Column("result", _LONG),
    Column("from_ms", BigInteger),
    Column("to_ms", BigInteger),
    Column("slots", BigInteger),
    # The queue's; ``handler`` NULL: no run of the queue.
    Column("handler", _ID),
    Column("overlap", String(16)),
    Column("concurrency", Integer),
    Column("priority", SmallInteger),
    # What the queue is sorted by, the lowest first: minus the priority of what is pending, and a number above all those
    # for each other status (natscron.storage.sql.runrows.RANKS). Status and rank say the same; a query names the one
    # whose index it is to be led by, for no planner knows how many runs are open just now.
    Column("rank_order", SmallInteger, nullable=False, server_default="3000"),
    # By the database's clock: since when, or from when on, it may be claimed; then, when its end was stored.
    Column("queue_ms", BigInteger),
    Column("payload", _BLOB),
    Column("worker", _ID),
    Column("cancel_reason", String(64)),
    Index("ix_scheduler_executions_job_recorded", "job_id", "recorded_ms"),
    Index("ix_scheduler_executions_queue", "rank_order", "queue_ms"),
    Index("ix_scheduler_executions_job_status", "job_id", "status", "recorded_ms"),
    Index("ix_scheduler_executions_recorded", "recorded_ms"),
    Index("ix_scheduler_executions_run", "run_id"),
)

# One row per shard and namespace; never deleted. ``epoch`` and ``nonce`` repeat what lies in ``data`` so that a
# transaction can be fenced by them.
lease: Final = Table(
    "scheduler_lease",
    metadata,
    Column("shard", String(64), primary_key=True),
    Column("data", _BLOB, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("stored_ms", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("nonce", String(64), nullable=False),
    # Counts fenced transactions: what the fence updates.
    Column("touched", BigInteger, nullable=False, server_default="0"),
)

notes: Final = Table(
    "scheduler_notes",
    metadata,
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("n", BigInteger, primary_key=True, autoincrement=False),
    Column("run_ids", _LONG, nullable=False),
    # That of the lease when the note was written.
    Column("revision", BigInteger, nullable=False, server_default="0"),
    Column("stored_ms", BigInteger, nullable=False),
)

open_rows: Final = Table(
    "scheduler_open",
    metadata,
    Column("run_id", _ID, primary_key=True),
    Column("data", _BLOB, nullable=False),
    Column("revision", BigInteger, nullable=False),
)

nodes: Final = Table(
    "scheduler_nodes",
    metadata,
    Column("instance", _ID, primary_key=True),
    Column("nonce", String(64), primary_key=True),
    Column("data", _BLOB, nullable=False),
    Column("stored_ms", BigInteger, nullable=False),
)

workers: Final = Table(
    "scheduler_workers",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("data", _BLOB, nullable=False),
    Column("lease_ms", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
)

# Counters by name: ``jobs`` (job and calendar writes), ``state`` (lease, open rows, nodes), ``gone`` (the last write
# that deleted open rows), ``swept`` (removals up to this number are gone), ``reader`` (the lowest version of this
# code's schema reader that may use these tables).
meta: Final = Table(
    "scheduler_meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("number", BigInteger, nullable=False, server_default="0"),
)

for _table in metadata.tables.values():
    for _name in ("mysql", "mariadb"):
        # Else a server's own defaults, which may know fewer characters and take texts for equal that are not.
        _table.dialect_kwargs[f"{_name}_charset"] = "utf8mb4"
        _table.dialect_kwargs[f"{_name}_collate"] = "utf8mb4_bin"
        _table.dialect_kwargs[f"{_name}_engine"] = "InnoDB"
