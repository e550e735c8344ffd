"""The counters of ``scheduler_meta``: one order of all writes.

A counter's row is locked from the first look at it to the end of the transaction, so numbers become visible in their
order, and who reads a number has everything up to it. Lock order everywhere: the lease's row, then a counter.
"""

from typing import Final

from sqlalchemy import bindparam, select, update

from natscron.storage.sql.connection import AnyConnection
from natscron.storage.sql.schema import meta

__all__ = ["GONE", "JOBS", "READER", "STATE", "SWEPT", "hold", "read", "set_number", "take"]

JOBS: Final = "jobs"
"""Writes to jobs and calendars."""
STATE: Final = "state"
"""Writes to the lease, open rows and nodes."""
GONE: Final = "gone"
"""The number of the last write that deleted open rows."""
SWEPT: Final = "swept"
"""The removals of jobs and calendars up to this number are forgotten."""
READER: Final = "reader"
"""The lowest version of this code's schema reader that may use the tables."""

_SELECT: Final = select(meta.c.number).where(meta.c.name == bindparam("counter"))
_HOLD: Final = _SELECT.with_for_update()
_TAKE: Final = update(meta).where(meta.c.name == bindparam("counter")).values(number=meta.c.number + bindparam("n"))
_TAKE_RETURNING: Final = _TAKE.returning(meta.c.number)
_SET: Final = update(meta).where(meta.c.name == bindparam("counter")).values(number=bindparam("value"))


async def hold(connection: AnyConnection, counter: str) -> int:
    """Lock a counter until the end of the transaction; its number."""
    return int((await connection.execute(_HOLD, {"counter": counter})).scalar_one())


async def take(connection: AnyConnection, counter: str, n: int = 1) -> int:
    """Take ``n`` numbers, and lock the counter; the last of them."""
    values = {"counter": counter, "n": n}
    if connection.dialect.update_returning:
        return int((await connection.execute(_TAKE_RETURNING, values)).scalar_one())
    await connection.execute(_TAKE, values)
    return await read(connection, counter)


async def read(connection: AnyConnection, counter: str) -> int:
    """A counter's number."""
    return int((await connection.execute(_SELECT, {"counter": counter})).scalar_one())


async def set_number(connection: AnyConnection, counter: str, value: int) -> None:
    """Set a counter that is locked."""
    await connection.execute(_SET, {"counter": counter, "value": value})
