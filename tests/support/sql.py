"""A look into a database, and a hand in it, past the storage."""

import datetime as dt
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Executable, make_url, text

from natscron.storage.sql.address import Address

__all__ = ["execute", "go_time", "insert_go_job", "make_go_tables", "rows", "scalars"]


async def execute(url: str, statement: Executable, parameters: Any = None) -> None:  # noqa: ANN401 - as SQLAlchemy takes them
    """Execute and commit."""
    engine = Address.parse(url).engine(2)
    try:
        async with engine.begin() as connection:
            await connection.execute(statement, parameters)
    finally:
        await engine.dispose()


async def rows(url: str, statement: Executable) -> Sequence[Any]:
    """All rows."""
    engine = Address.parse(url).engine(2)
    try:
        async with engine.connect() as connection:
            return (await connection.execute(statement)).all()
    finally:
        await engine.dispose()


async def scalars(url: str, statement: Executable) -> list[Any]:
    """The first column of all rows."""
    return [row[0] for row in await rows(url, statement)]


async def make_go_tables(url: str) -> None:
    """The two tables as the Go library's ORM makes them on this kind of database."""
    backend = make_url(url).get_backend_name()
    types = _GO_TYPES["mysql" if backend == "mariadb" else backend]
    for statement in _GO_TABLES:
        await execute(url, text(statement.format_map(types)))


_GO_TYPES: Final = {
    "sqlite": {"id": "varchar(255)", "time": "datetime", "text": "text", "int": "integer"},
    "postgresql": {
        "id": "varchar(255)",
        "time": "timestamptz",
        "text": "text",
        "int": "bigint",
    },
    "mysql": {"id": "varchar(255)", "time": "datetime(3) NULL", "text": "text", "int": "bigint"},
}
_GO_TABLES: Final = (
    (
        "CREATE TABLE scheduler_jobs (id {id}, schedule_type varchar(50), schedule_config {text}, status varchar(20),"
        " next_run {time}, last_run {time}, created_at {time}, updated_at {time}, metadata {text}, PRIMARY KEY (id))"
    ),
    "CREATE INDEX idx_scheduler_jobs_status ON scheduler_jobs (status)",
    "CREATE INDEX idx_scheduler_jobs_next_run ON scheduler_jobs (next_run)",
    "CREATE INDEX idx_scheduler_jobs_created_at ON scheduler_jobs (created_at)",
    "CREATE INDEX idx_scheduler_jobs_updated_at ON scheduler_jobs (updated_at)",
    (
        "CREATE TABLE scheduler_executions (execution_id {id}, job_id {id}, start_time {time}, end_time {time},"
        " duration {int}, status varchar(20), error {text}, metadata {text}, PRIMARY KEY (execution_id))"
    ),
    "CREATE INDEX idx_scheduler_executions_job_id ON scheduler_executions (job_id)",
    "CREATE INDEX idx_scheduler_executions_start_time ON scheduler_executions (start_time)",
    "CREATE INDEX idx_scheduler_executions_status ON scheduler_executions (status)",
)


def go_time(url: str, moment: dt.datetime | None) -> Any:  # noqa: ANN401 - what the driver takes
    """An instant as the Go library stores it: text in SQLite, with nanoseconds and its host's offset."""
    if moment is None:
        return None
    backend = make_url(url).get_backend_name()
    if backend == "sqlite":
        local = moment.astimezone(dt.timezone(dt.timedelta(hours=2)))
        return local.strftime("%Y-%m-%d %H:%M:%S.%f") + "123+02:00"
    return moment if backend == "postgresql" else moment.astimezone(dt.UTC).replace(tzinfo=None)


async def insert_go_job(
    url: str,
    job_id: str,
    kind: str,
    config: str,
    *,
    next_run: dt.datetime | None = None,
    last_run: dt.datetime | None = None,
    status: str = "pending",
    created_at: dt.datetime | None = None,
    metadata: str | None = None,
) -> None:
    """A job as the Go library writes it, which knows no other columns."""
    values = {
        "id": job_id,
        "kind": kind,
        "config": config,
        "status": status,
        "next_run": go_time(url, next_run),
        "last_run": go_time(url, last_run),
        "created_at": go_time(url, created_at),
        "updated_at": go_time(url, last_run or created_at),
        "metadata": metadata,
    }
    names = ", ".join("schedule_type" if n == "kind" else "schedule_config" if n == "config" else n for n in values)
    places = ", ".join(f":{name}" for name in values)
    await execute(url, text(f"INSERT INTO scheduler_jobs ({names}) VALUES ({places})"), values)  # noqa: S608 - own names
