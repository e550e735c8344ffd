"""A job that becomes part of a transaction of the caller's own.

It takes no number, since that would keep the counter of all writes from everybody until the transaction ends: its row
has revision 0, and is given a number by whoever comes upon it once it is committed (:mod:`natscron.storage.sql.jobs`).
Its time is the insert's, so slots between the insert and COMMIT are not lost.
"""

from typing import Final

from sqlalchemy import Connection, Insert, insert, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from natscron.clock import Clock
from natscron.errors import JobAlreadyExistsError
from natscron.model import Job
from natscron.storage.sql.database import now_ms_of
from natscron.storage.sql.rows import check_id, job_values
from natscron.storage.sql.schema import jobs
from natscron.storage.sql.signals import CHANNEL, Topic

__all__ = ["submit"]

_NOTIFY: Final = text(f"SELECT pg_notify('{CHANNEL}', '{Topic.JOBS.value}')")


def submit(connection: Connection, job: Job, clock: Clock) -> None:
    """Insert the job. Raises JobAlreadyExistsError, which leaves the transaction usable, and the database's errors."""
    name = connection.dialect.name
    check_id(job.id, database="mysql" if name == "mariadb" else name)
    values = {**job_values(job, now_ms_of(connection, clock)), "revision": 0}
    refused = JobAlreadyExistsError(f"job with subject {job.id} already exists")
    statement: Insert
    if name == "postgresql":
        statement = postgresql.insert(jobs).on_conflict_do_nothing()
    elif name == "sqlite":
        statement = sqlite.insert(jobs).on_conflict_do_nothing()
    else:
        statement = insert(jobs)
    try:
        inserted = connection.execute(statement.values(values)).rowcount
    except IntegrityError:
        # On MySQL that costs the statement, not the transaction.
        raise refused from None
    if not inserted:
        raise refused
    if name == "postgresql":
        connection.execute(_NOTIFY)
