"""What the drivers raise, as what the storage raises.

An error of the database before COMMIT was sent has written nothing: the connection ended, or the transaction is rolled
back. Only a COMMIT without an answer is in doubt. Texts come from the driver's own error, never from SQLAlchemy's,
which shows the statement and its values.
"""

import asyncio
from typing import Final

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from natscron.errors import NatscronError, StorageError, StorageUnavailableError, StorageUncertainError

__all__ = ["DATABASE_ERRORS", "as_storage_error", "is_disconnect", "is_lock_timeout", "is_transient"]

DATABASE_ERRORS: Final = (SQLAlchemyError, OSError, TimeoutError, EOFError, asyncio.IncompleteReadError)
"""What a driver may raise when the database, or the way to it, fails."""

_TEXT_MAX: Final = 500
# SQLSTATE: serialization failure, deadlock, lock timeout.
_PG_TRANSIENT: Final = frozenset({"40001", "40P01", "55P03"})
# The server is shutting down, crashed, or starting up.
_PG_GONE: Final = frozenset({"57P01", "57P02", "57P03"})
# MySQL and MariaDB: lock wait timeout, deadlock, changed since the snapshot, NOWAIT.
_MYSQL_TRANSIENT: Final = frozenset({1020, 1205, 1213, 3572})
_MYSQL_LOCK_TIMEOUT: Final = frozenset({1205, 3572})
_MYSQL_GONE: Final = frozenset({1053, 1927, 2003, 2006, 2013, 2014, 2055, 4031})
# SQLITE_BUSY and SQLITE_LOCKED.
_SQLITE_TRANSIENT: Final = frozenset({5, 6})
_SQLITE_IO_ERROR: Final = 10


def is_transient(error: BaseException | None) -> bool:
    """The database took others' part in a conflict: the same transaction may well succeed at once."""
    if not isinstance(error, DBAPIError):
        return False
    return (
        _sqlstate(error) in _PG_TRANSIENT
        or _mysql_code(error) in _MYSQL_TRANSIENT
        or _sqlite_code(error) in _SQLITE_TRANSIENT
    )


def is_lock_timeout(error: BaseException | None) -> bool:
    """Somebody's transaction holds a row for longer than one waits."""
    return isinstance(error, DBAPIError) and (_sqlstate(error) == "55P03" or _mysql_code(error) in _MYSQL_LOCK_TIMEOUT)


def is_disconnect(error: BaseException | None) -> bool:
    """The connection is gone, or could not be made."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, OSError | EOFError | asyncio.IncompleteReadError)
    state = _sqlstate(error) or ""
    return (
        error.connection_invalidated or state in _PG_GONE or state.startswith("08") or _mysql_code(error) in _MYSQL_GONE
    )


def as_storage_error(error: BaseException, where: str, *, committing: bool = False) -> NatscronError:
    """The storage's error; ``committing``: COMMIT had been sent. ``where`` names the database, without secrets."""
    if isinstance(error, NatscronError):
        return error
    kind: type[StorageError] = StorageUnavailableError
    if committing and _in_doubt(error):
        kind = StorageUncertainError
    return kind(f"{where}: {_text(error)}")


def _in_doubt(error: BaseException) -> bool:
    """Whether a COMMIT that failed with this may have happened; a refusal of the database says that it has not."""
    return not isinstance(error, DBAPIError) or is_disconnect(error) or _sqlite_code(error) == _SQLITE_IO_ERROR


def _text(error: BaseException) -> str:
    if isinstance(error, PoolTimeoutError):
        return "all connections are in use"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = str(cause).partition("\n")[0][:_TEXT_MAX]
    return text or type(cause).__name__


def _sqlstate(error: DBAPIError) -> str | None:
    state = getattr(error.orig, "sqlstate", None)
    return state if isinstance(state, str) else None


def _mysql_code(error: DBAPIError) -> int | None:
    args = getattr(error.orig, "args", ())
    return args[0] if args and isinstance(args[0], int) else None


def _sqlite_code(error: DBAPIError) -> int | None:
    code = getattr(error.orig, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None
