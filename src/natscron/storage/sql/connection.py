"""What a transaction's statements are executed on: all that those who write them use of a connection."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from sqlalchemy import Dialect, Executable

__all__ = ["AnyConnection", "Result", "Scalars"]


class Scalars(Protocol):
    """The first column of all rows."""

    def all(self) -> Sequence[Any]:
        """All of them."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Result(Protocol):
    """What a statement came to; a row's columns are its attributes."""

    @property
    def rowcount(self) -> int:
        """Rows changed; -1 where nobody counts."""
        ...

    def all(self) -> Sequence[Any]:
        """All rows."""
        ...

    def first(self) -> Any:  # noqa: ANN401 - a row
        """The first row, None if there is none."""
        ...

    def one(self) -> Any:  # noqa: ANN401 - a row
        """The only row. Raises NoResultFound or MultipleResultsFound."""
        ...

    def one_or_none(self) -> Any:  # noqa: ANN401 - a row
        """The only row, or None. Raises MultipleResultsFound."""
        ...

    def scalars(self) -> Scalars:
        """The first column."""
        ...

    def scalar_one(self) -> Any:  # noqa: ANN401 - a value
        """The first column of the only row. Raises NoResultFound or MultipleResultsFound."""
        ...

    def scalar_one_or_none(self) -> Any:  # noqa: ANN401 - a value
        """The same, or None if there is no row. Raises MultipleResultsFound."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class AnyConnection(Protocol):
    """SQLAlchemy's connection, or :class:`~natscron.storage.sql.direct.Direct`."""

    @property
    def dialect(self) -> Dialect:
        """The database's."""
        ...

    async def execute(self, statement: Executable, parameters: Any = None) -> Result:  # noqa: ANN401 - a dict, or several
        """Execute a statement, with a list once for each. Raises DBAPIError."""
        ...
