"""Lists of ids in statements, so that a statement's text is the same for any number of them.

That text is what SQLAlchemy, asyncpg and the database keep a compiled form of.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Dialect,
    FromClause,
    Select,
    Subquery,
    Text,
    TextualSelect,
    bindparam,
    column,
    func,
    text,
)
from sqlalchemy.types import TypeDecorator

from natscron.storage.sql.database import Database

__all__ = ["SLICE", "Lists", "forced"]

SLICE: Final = 500
"""Ids in one statement, where there may be more."""

_FROM: Final = {
    "sqlite": "SELECT value AS id FROM json_each(:listed)",
    "postgresql": "SELECT value AS id FROM json_array_elements_text(CAST(:listed AS json))",
    # The collation is that of the columns that it is compared with.
    "mysql": (
        "SELECT listed.id AS id FROM JSON_TABLE(:listed, '$[*]' COLUMNS "
        "(id VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$')) AS listed"
    ),
}


def forced(statement: Select[Any], table: FromClause, index: str) -> Select[Any]:
    """Have MySQL read ``table`` by this index, one of ours: it is not good at guessing what a subquery will find."""
    for dialect in ("mysql", "mariadb"):
        statement = statement.with_hint(table, f"FORCE INDEX (ix_scheduler_executions_{index})", dialect)
    return statement


class _Json(TypeDecorator[list[str]]):
    """A list of texts as one value."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: list[str] | None, dialect: Dialect) -> str:
        """JSON."""
        del dialect
        return msgspec.json.encode(value).decode()


def _members(name: str) -> TextualSelect:
    """On SQLite: those of a parameter that is a list."""
    select_all = text(f"SELECT value FROM json_each(:{name})")  # noqa: S608 - the name of a parameter of ours
    return select_all.bindparams(bindparam(name, type_=_Json)).columns(column("value", Text))


class Lists:
    """How this database takes lists."""

    def __init__(self, database: Database) -> None:
        self._name = database.name

    def among(self, value: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        """``value`` is in the list that is given as the parameter ``name``, a list of texts."""
        if self._name == "postgresql":
            return value == func.any(bindparam(name, type_=ARRAY(Text)))
        if self._name == "sqlite":
            return value.in_(_members(name))
        return value.in_(bindparam(name, expanding=True))

    def not_among(self, value: ColumnElement[Any], name: str) -> ColumnElement[bool]:
        """``value`` is in no such list."""
        if self._name == "postgresql":
            return value != func.all(bindparam(name, type_=ARRAY(Text)))
        if self._name == "sqlite":
            return value.not_in(_members(name))
        return value.not_in(bindparam(name, expanding=True))

    def listed(self) -> Subquery:
        """A table with a column ``id``: those that are given as :meth:`given`."""
        return text(_FROM[self._name]).columns(column("id", Text)).subquery("listed_ids")

    @staticmethod
    def given(ids: Sequence[str]) -> dict[str, Any]:
        """The parameter of :meth:`listed`."""
        return {"listed": msgspec.json.encode(list(ids)).decode()}
