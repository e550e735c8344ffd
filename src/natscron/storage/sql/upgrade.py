"""Brings the tables up to date, whoever comes first.

Who is authoritative: the table ``natscron_version``, and ``reader`` in ``scheduler_meta``: the lowest number that code
must have (:data:`READER`) to honour these tables. A database that a later version has changed is used as it is if its
reader is no higher than ours, else refused; nothing is ever taken back.

N processes may start at once. One holds a lock of the database (an advisory lock on PostgreSQL, GET_LOCK on MySQL, the
write lock of SQLite), the others wait for it, at most :data:`WAIT_S`, and then find nothing left to do. On PostgreSQL
and SQLite all of it is one transaction. On MySQL a process that dies half-way leaves half, and the next one makes the
rest.
"""

import logging
from pathlib import Path
from typing import Final

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select, text

from natscron.errors import SchemaTooNewError, StorageUnavailableError
from natscron.storage.sql import numbers
from natscron.storage.sql.database import Database
from natscron.storage.sql.schema import meta

__all__ = ["READER", "VERSION_TABLE", "WAIT_S", "check_reader", "upgrade"]

log = logging.getLogger("natscron.storage")

READER: Final = 1
"""What of the schema this code honours."""
VERSION_TABLE: Final = "natscron_version"
WAIT_S: Final = 50
_STEPS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x6E617473_63726F6E
"""``natscron`` in ASCII."""
_MYSQL_LOCK: Final = "LEFT(CONCAT('natscron.', DATABASE()), 64)"


async def upgrade(database: Database) -> None:
    """Make or change the tables as needed. Raises SchemaTooNewError and StorageUnavailableError."""
    steps = ScriptDirectory(str(_STEPS), version_locations=[str(_STEPS)])
    async with database.reading() as connection:
        if await connection.run_sync(_is_current, steps):
            return
    async with database.transaction() as connection:
        now = await database.now_ms(connection)
        await connection.run_sync(_upgrade, steps, database.name, now)


def check_reader(number: int | None) -> None:
    """Raise SchemaTooNewError unless this code honours tables with this reader number."""
    if number is None or number > READER:
        needed = "an unknown one" if number is None else str(number)
        raise SchemaTooNewError(
            f"the tables were changed by a later version: they need schema reader {needed}, and this version has "
            f"{READER}; update this instance"
        )


def _is_current(connection: Connection, steps: ScriptDirectory) -> bool:
    """Whether there is nothing to do."""
    found = _context(connection, steps, 0).get_current_revision()
    if found == steps.get_current_head():
        return True
    if found is not None and found not in {step.revision for step in steps.walk_revisions()}:
        check_reader(_reader(connection))
        log.warning("the tables are of a later version, which this one may use", extra={"revision": found})
        return True
    return False


def _reader(connection: Connection) -> int | None:
    if not inspect(connection).has_table(meta.name):
        return None
    return connection.execute(select(meta.c.number).where(meta.c.name == numbers.READER)).scalar_one_or_none()


def _upgrade(connection: Connection, steps: ScriptDirectory, name: str, now_ms: int) -> None:
    _lock(connection, name)
    try:
        # Somebody else may have been faster.
        if _is_current(connection, steps):
            return
        context = _context(connection, steps, now_ms)
        with Operations.context(context):
            context.run_migrations()
        log.info("the tables are up to date", extra={"revision": steps.get_current_head()})
    finally:
        if name == "mysql":
            connection.execute(text(f"SELECT RELEASE_LOCK({_MYSQL_LOCK})"))


def _context(connection: Connection, steps: ScriptDirectory, now_ms: int) -> MigrationContext:
    return MigrationContext.configure(
        connection,
        opts={
            "version_table": VERSION_TABLE,
            "fn": lambda revision, _context: steps._upgrade_revs("head", revision),  # noqa: SLF001 - what env.py does
            "now_ms": now_ms,
        },
    )


def _lock(connection: Connection, name: str) -> None:
    """Be the only one, until the end of the transaction (MySQL: of the connection)."""
    if name == "postgresql":
        connection.execute(text("SELECT set_config('lock_timeout', :wait, true)"), {"wait": f"{WAIT_S}s"})
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    elif name == "mysql":
        got = connection.execute(text(f"SELECT GET_LOCK({_MYSQL_LOCK}, :wait)"), {"wait": WAIT_S}).scalar_one()
        if got != 1:
            raise StorageUnavailableError(f"another process has been changing the tables for {WAIT_S} s")
