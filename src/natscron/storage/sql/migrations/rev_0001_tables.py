"""The tables; where the Go library made its two, ours are added to them.

A database of the Go library gets a lease that was released just now and has seen no write: so its jobs are planned from
where the Go library left off, by the first leader there is.
"""

import json
from typing import Any, Final

from alembic import op
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Index,
    Inspector,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    inspect,
    text,
)
from sqlalchemy.dialects import mysql

revision: Final = "0001"
down_revision: Final = None

READER: Final = 1
_GO_TABLES: Final = ("scheduler_jobs", "scheduler_executions")
_GO_KEYS: Final = {"id", "execution_id"}

# As they were with this step: what natscron.storage.sql.schema says later is made of them by later steps.
_tables: Final = MetaData()
_ID: Final = String(255).with_variant(mysql.VARCHAR(255, collation="utf8mb4_bin"), "mysql", "mariadb")
_LONG: Final = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
_BLOB: Final = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
_TIME: Final = (
    Text().with_variant(DateTime(timezone=True), "postgresql").with_variant(mysql.DATETIME(fsp=3), "mysql", "mariadb")
)

Table(
    "scheduler_jobs",
    _tables,
    Column("id", _ID, primary_key=True),
    Column("schedule_type", String(50)),
    Column("schedule_config", Text),
    Column("status", String(20)),
    Column("next_run", _TIME),
    Column("last_run", _TIME),
    Column("created_at", _TIME),
    Column("updated_at", _TIME),
    Column("metadata", _LONG),
    Column("row_data", _BLOB),
    Column("revision", BigInteger, nullable=False, server_default="0"),
    Column("stored_ms", BigInteger, nullable=False, server_default="0"),
    Index("ix_scheduler_jobs_revision", "revision"),
)
Table(
    "scheduler_calendars",
    _tables,
    Column("name", _ID, primary_key=True),
    Column("row_data", _BLOB, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("stored_ms", BigInteger, nullable=False),
    Index("ix_scheduler_calendars_revision", "revision"),
)
Table(
    "scheduler_removed",
    _tables,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(10), nullable=False),
    Column("id", _ID, nullable=False),
    Column("stored_ms", BigInteger, nullable=False),
)
Table(
    "scheduler_executions",
    _tables,
    Column("execution_id", _ID, primary_key=True),
    Column("job_id", _ID),
    Column("start_time", _TIME),
    Column("end_time", _TIME),
    Column("duration", BigInteger),
    Column("status", String(20)),
    Column("error", _LONG),
    Column("metadata", _LONG),
    Column("run_id", _ID),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("generation", BigInteger),
    Column("scheduled_ms", BigInteger),
    Column("due_ms", BigInteger),
    Column("started_ms", BigInteger),
    Column("finished_ms", BigInteger),
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
    Column("handler", _ID),
    Column("overlap", String(16)),
    Column("concurrency", Integer),
    Column("priority", SmallInteger),
    Column("rank_order", SmallInteger, nullable=False, server_default="3000"),
    Column("queue_ms", BigInteger),
    Column("payload", _BLOB),
    Column("worker", _ID),
    Column("cancel_reason", String(64)),
    Index("ix_scheduler_executions_job_recorded", "job_id", "recorded_ms"),
    Index("ix_scheduler_executions_job_status", "job_id", "status", "recorded_ms"),
    Index("ix_scheduler_executions_queue", "rank_order", "queue_ms"),
    Index("ix_scheduler_executions_recorded", "recorded_ms"),
    Index("ix_scheduler_executions_run", "run_id"),
)
Table(
    "scheduler_lease",
    _tables,
    Column("shard", String(64), primary_key=True),
    Column("data", _BLOB, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("stored_ms", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("nonce", String(64), nullable=False),
    Column("touched", BigInteger, nullable=False, server_default="0"),
)
Table(
    "scheduler_notes",
    _tables,
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("n", BigInteger, primary_key=True, autoincrement=False),
    Column("run_ids", _LONG, nullable=False),
    Column("revision", BigInteger, nullable=False, server_default="0"),
    Column("stored_ms", BigInteger, nullable=False),
)
Table(
    "scheduler_open",
    _tables,
    Column("run_id", _ID, primary_key=True),
    Column("data", _BLOB, nullable=False),
    Column("revision", BigInteger, nullable=False),
)
Table(
    "scheduler_nodes",
    _tables,
    Column("instance", _ID, primary_key=True),
    Column("nonce", String(64), primary_key=True),
    Column("data", _BLOB, nullable=False),
    Column("stored_ms", BigInteger, nullable=False),
)
Table(
    "scheduler_workers",
    _tables,
    Column("id", _ID, primary_key=True),
    Column("data", _BLOB, nullable=False),
    Column("lease_ms", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
)
Table(
    "scheduler_meta",
    _tables,
    Column("name", String(64), primary_key=True),
    Column("number", BigInteger, nullable=False, server_default="0"),
)

for _table in _tables.tables.values():
    for _name in ("mysql", "mariadb"):
        _table.dialect_kwargs[f"{_name}_charset"] = "utf8mb4"
        _table.dialect_kwargs[f"{_name}_collate"] = "utf8mb4_bin"
        _table.dialect_kwargs[f"{_name}_engine"] = "InnoDB"

_FIRST_LEASE: Final = text(
    "INSERT INTO scheduler_lease (shard, data, revision, stored_ms, epoch, nonce, touched)"
    " VALUES ('0', :data, 1, :now, 1, '', 0)"
)


def upgrade() -> None:
    """Make what is missing."""
    connection = op.get_bind()
    inspector = inspect(connection)
    there = set(inspector.get_table_names())
    for table in _tables.sorted_tables:
        if table.name in there:
            _complete(table, inspector)
        else:
            table.create(connection)
    meta = _tables.tables["scheduler_meta"]
    known = set(connection.execute(meta.select()).scalars())
    # The lease of a database that the Go library made is the first write of its kind.
    first = {"jobs": 0, "state": 1, "gone": 0, "swept": 0, "reader": READER}
    for name, number in first.items():
        if name not in known:
            connection.execute(meta.insert().values(name=name, number=number))
    if there.issuperset(_GO_TABLES) and connection.execute(_tables.tables["scheduler_lease"].select()).first() is None:
        now = op.get_context().opts["now_ms"]
        record = json.dumps({"reader": 1, "epoch": 1, "instant": now, "jobs_seq": 0, "note": [0, 0]})
        # aiomysql 0.3.2 cannot send bytes with PyMySQL 1.2.1; there a text becomes the same bytes.
        data = record if connection.dialect.name in {"mysql", "mariadb"} else record.encode()
        connection.execute(_FIRST_LEASE, {"data": data, "now": now})


def _complete(table: Table, inspector: Inspector) -> None:
    """Add the columns and indexes that a table of the Go library lacks."""
    dialect = inspector.bind.dialect.name
    if table.name in _GO_TABLES and dialect in {"mysql", "mariadb"} and _folds_case(table, inspector):
        # Else the database would take two ids for one that differ in case only.
        op.execute(f"ALTER TABLE {table.name} CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
    found = {column["name"]: column for column in inspector.get_columns(table.name)}
    for column in table.columns:
        if column.name not in found:
            op.add_column(table.name, _twin(column))
        elif (
            dialect == "postgresql"
            and column.name == "metadata"
            and not isinstance(found[column.name]["type"], Text | String)
        ):
            op.alter_column(table.name, "metadata", type_=Text(), postgresql_using="metadata::text")
    indexes = {index["name"] for index in inspector.get_indexes(table.name)}
    for index in table.indexes:
        if index.name not in indexes:
            index.create(op.get_bind())


def _twin(column: Column[Any]) -> Column[Any]:
    """The column as one of no table."""
    default = getattr(column.server_default, "arg", None)
    return Column(column.name, column.type, nullable=column.nullable, server_default=default)


def _folds_case(table: Table, inspector: Inspector) -> bool:
    kind: Any = next(c["type"] for c in inspector.get_columns(table.name) if c["name"] in _GO_KEYS)
    return bool(getattr(kind, "collation", None) != "utf8mb4_bin")
