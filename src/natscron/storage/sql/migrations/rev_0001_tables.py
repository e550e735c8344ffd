"""The tables; where the Go library made its two, ours are added to them.

A database of the Go library gets a lease that was released just now and has seen no write: so its jobs are planned from
where the Go library left off, by the first leader there is.
"""

import json
from typing import Any, Final

from alembic import op
from sqlalchemy import Column, Inspector, String, Table, Text, inspect

from natscron.storage.sql.schema import metadata

revision: Final = "0001"
down_revision: Final = None

READER: Final = 1
_GO_TABLES: Final = ("scheduler_jobs", "scheduler_executions")
_GO_KEYS: Final = {"id", "execution_id"}


def upgrade() -> None:
    """Make what is missing."""
    connection = op.get_bind()
    inspector = inspect(connection)
    there = set(inspector.get_table_names())
    for table in metadata.sorted_tables:
        if table.name in there:
            _complete(table, inspector)
        else:
            table.create(connection)
    meta = metadata.tables["scheduler_meta"]
    known = set(connection.execute(meta.select()).scalars())
    # The lease of a database that the Go library made is the first write of its kind.
    first = {"jobs": 0, "state": 1, "gone": 0, "swept": 0, "reader": READER}
    for name, number in first.items():
        if name not in known:
            connection.execute(meta.insert().values(name=name, number=number))
    lease = metadata.tables["scheduler_lease"]
    if there.issuperset(_GO_TABLES) and connection.execute(lease.select()).first() is None:
        now = op.get_context().opts["now_ms"]
        record = {"reader": 1, "epoch": 1, "instant": now, "jobs_seq": 0, "note": [0, 0]}
        connection.execute(
            lease.insert().values(
                shard="0", data=json.dumps(record).encode(), revision=1, stored_ms=now, epoch=1, nonce="", touched=0
            )
        )


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
