"""SQLAlchemy's statements on SQLite's own connection, in SQLite's thread.

What a small statement costs some ms after the last one is mostly code that the processor has to fetch again: on the way
through SQLAlchemy's execution 170 to 380 us were measured, on the driver 50 to 90. So a statement that comes again (the
same object, which our classes keep) is compiled once, by SQLAlchemy, and from then on goes to the driver as text, with
what its types make of values in both directions. One that comes for the first time, or that has no columns to name
(``text``), goes through SQLAlchemy on the same connection, within the same transaction.
"""

import contextlib
import sqlite3
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import Dialect, Executable
from sqlalchemy.exc import DBAPIError, MultipleResultsFound, NoResultFound
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import CompoundSelect, Delete, Insert, Select, Update
from sqlalchemy.sql.compiler import SQLCompiler

from natscron.storage.sql.connection import AnyConnection, Result
from natscron.storage.sql.quick import QuickConnection

__all__ = ["Direct"]

T = TypeVar("T")

_KEPT: Final = 256
"""Statements that are remembered, of each connection; the one that came longest ago is forgotten first."""
_KINDS: Final = (Select, CompoundSelect, Insert, Update, Delete)


class Direct(AnyConnection):
    """One of SQLite's connections, past SQLAlchemy where that is possible."""

    def __init__(self, connection: AsyncConnection, driver: QuickConnection) -> None:
        self._connection = connection
        self._driver = driver

    @classmethod
    def of(cls, connection: AsyncConnection) -> "Direct | None":
        """The way past SQLAlchemy, where the driver is ours."""
        sync = connection.sync_connection
        # The fairy's own ``driver_connection`` is None once it is detached.
        adapted: Any = None if sync is None else sync.connection.dbapi_connection
        driver = None if adapted is None else adapted.driver_connection
        return cls(connection, driver) if isinstance(driver, QuickConnection) else None

    @property
    def dialect(self) -> Dialect:
        """SQLite's."""
        return self._connection.dialect

    async def within(self, work: Callable[[], Coroutine[Any, Any, T]], give_up: Callable[[], None]) -> T:
        """A transaction, in the thread: what ``work`` has not committed at its end is rolled back.

        See :meth:`QuickConnection.within <natscron.storage.sql.quick.QuickConnection.within>`.
        """

        async def whole() -> T:
            try:
                return await work()
            finally:
                await self._end()

        return await self._driver.within(whole, give_up)

    async def execute(self, statement: Executable, parameters: Any = None) -> Result:  # noqa: ANN401 - see the protocol
        """Execute a statement, with a list once for each. Raises DBAPIError."""
        several = isinstance(parameters, list) and len(parameters) > 1
        values = parameters[0] if parameters and isinstance(parameters, list) else parameters or {}
        plan = self._plan(statement, tuple(values), several=several)
        if plan is None:
            return await self._connection.execute(statement, parameters)
        with _translated(plan.text):
            if several:
                outcome = await self._driver.visit(plan.text, [plan.bound(one) for one in parameters], many=True)
            else:
                outcome = await self._driver.visit(plan.text, plan.bound(values), many=False)
        return _Rows(plan.rows(outcome.rows), outcome.rowcount)

    async def commit(self) -> None:
        """Commit. Raises DBAPIError."""
        if self._connection.in_transaction():
            await self._connection.commit()
        with _translated("COMMIT"):
            await self._driver.commit()

    async def _end(self) -> None:
        if self._connection.in_transaction():
            await self._connection.rollback()
        with _translated("ROLLBACK"):
            await self._driver.rollback()

    def _plan(self, statement: Executable, names: tuple[str, ...], *, several: bool) -> "_Plan | None":
        """None: it goes through SQLAlchemy."""
        if not isinstance(statement, _KINDS):
            return None
        plans: OrderedDict[Any, _Known] = self._driver.plans
        key = (id(statement), names, several)
        known = plans.get(key)
        if known is None:
            if len(plans) >= _KEPT:
                plans.popitem(last=False)
            plans[key] = _Known(statement)
            return None
        plans.move_to_end(key)
        if not known.compiled:
            known.compiled, known.plan = True, _Plan.of(statement, self.dialect, names, several=several)
        return known.plan


class _Known:
    """A statement that came; it is kept, so that no other gets its id."""

    def __init__(self, statement: Executable) -> None:
        self.statement = statement
        self.compiled = False
        self.plan: _Plan | None = None


class _Plan:
    """What SQLAlchemy makes of a statement, for these names of parameters."""

    def __init__(self, compiled: SQLCompiler, dialect: Dialect, given: Sequence[str]) -> None:
        self.text = str(compiled)
        self._order = tuple(compiled.positiontup or ())
        self._fixed: dict[str, Any] = dict(compiled.construct_params(dict.fromkeys(given)))
        self._binders = {
            name: bind
            for name, parameter in compiled.binds.items()
            if (bind := parameter.type.dialect_impl(dialect).bind_processor(dialect)) is not None
        }
        for name in set(self._order).difference(given) & self._binders.keys():
            self._fixed[name] = self._binders[name](self._fixed[name])
        columns = list(getattr(compiled.statement, "exported_columns", ()))
        self._readers = [
            (place, read)
            for place, column in enumerate(columns)
            if (read := column.type.dialect_impl(dialect).result_processor(dialect, None)) is not None
        ]
        self._make: Callable[[Sequence[Any]], Any] = tuple
        if columns:
            names = [str(column.key) for column in columns]
            row: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]  # noqa: PYI024 - made at run time
            self._make = row._make

    @classmethod
    def of(cls, statement: Any, dialect: Dialect, names: Sequence[str], *, several: bool) -> "_Plan | None":  # noqa: ANN401 - one of _KINDS
        """None: its text depends on its values."""
        compiled = statement.compile(dialect=dialect, column_keys=list(names), for_executemany=several)
        return None if compiled.post_compile_params else cls(compiled, dialect, names)

    def bound(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """The values in the order of the text."""
        fixed, binders = self._fixed, self._binders
        return tuple(
            [
                fixed[name] if name not in values else binders[name](values[name]) if name in binders else values[name]
                for name in self._order
            ]
        )

    def rows(self, rows: Sequence[Sequence[Any]]) -> list[Any]:
        """What the driver gave, as values of the columns' types."""
        if self._readers:
            rows = [self._read(row) for row in rows]
        return [self._make(row) for row in rows]

    def _read(self, row: Sequence[Any]) -> list[Any]:
        values = list(row)
        for n, reader in self._readers:
            values[n] = reader(values[n])
        return values


class _Rows:
    """A result that is there already."""

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self._rows = rows
        self.rowcount = rowcount

    def all(self) -> list[Any]:
        """All rows."""
        return self._rows

    def first(self) -> Any:  # noqa: ANN401 - a row
        """The first row, None if there is none."""
        return self._rows[0] if self._rows else None

    def one(self) -> Any:  # noqa: ANN401 - a row
        """The only row. Raises NoResultFound or MultipleResultsFound."""
        if not self._rows:
            raise NoResultFound("a row was required, and there is none")
        return self.one_or_none()

    def one_or_none(self) -> Any:  # noqa: ANN401 - a row
        """The only row, or None. Raises MultipleResultsFound."""
        if len(self._rows) > 1:
            raise MultipleResultsFound("one row was required, and there are more")
        return self.first()

    def scalars(self) -> "_Rows":
        """The first column."""
        return _Rows([row[0] for row in self._rows], self.rowcount)

    def scalar_one(self) -> Any:  # noqa: ANN401 - a value
        """The first column of the only row. Raises NoResultFound or MultipleResultsFound."""
        return self.one()[0]

    def scalar_one_or_none(self) -> Any:  # noqa: ANN401 - a value
        """The same, or None if there is no row. Raises MultipleResultsFound."""
        row = self.one_or_none()
        return None if row is None else row[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)


@contextlib.contextmanager
def _translated(text: str) -> Iterator[None]:
    """As SQLAlchemy raises what the driver raises; values stay out of it."""
    try:
        yield
    except sqlite3.Error as error:
        raise DBAPIError.instance(text, None, error, sqlite3.Error, hide_parameters=True) from error
