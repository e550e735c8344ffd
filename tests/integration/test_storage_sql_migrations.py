"""The tables: made once, whoever comes first; what later versions changed is used or refused; no drift."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, insert, text, update
from tests.support.sql import execute, scalars

from natscron.errors import SchemaTooNewError
from natscron.model import Job, ScheduleSpec
from natscron.storage.sql import SQLStorage
from natscron.storage.sql.address import Address
from natscron.storage.sql.schema import meta, metadata
from natscron.storage.sql.upgrade import READER, VERSION_TABLE

pytestmark = pytest.mark.anyio

_START = """
import asyncio, sys
from natscron.model import Job, ScheduleSpec
from natscron.storage.sql import SQLStorage

async def main():
    storage = SQLStorage(sys.argv[1])
    await storage.initialize()
    await storage.create_job(Job(id=sys.argv[2], schedule=ScheduleSpec(every="1h")))
    await storage.close()

asyncio.run(main())
"""


def _drift(connection: Connection) -> Sequence[Any]:
    options = {"compare_type": True, "compare_server_default": True, "version_table": VERSION_TABLE}
    found: Sequence[Any] = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    return found


async def test_the_steps_lead_to_the_tables_that_the_code_uses(sql_url: str) -> None:
    storage = SQLStorage(sql_url)
    await storage.initialize()
    await storage.close()
    engine = Address.parse(sql_url).engine(2)
    async with engine.connect() as connection:
        assert await connection.run_sync(_drift) == []
    await engine.dispose()


async def test_many_processes_may_start_at_once(sql_url: str) -> None:
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", _START, sql_url, f"job-{n}", stderr=subprocess.PIPE)
        for n in range(4)
    ]
    errors = [(await process.communicate())[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    storage = SQLStorage(sql_url)
    await storage.initialize()
    assert await storage.last_jobs_seq() == 4
    await storage.close()


async def test_many_storages_of_one_process_may_start_at_once(sql_url: str) -> None:
    storages = [SQLStorage(sql_url) for _ in range(5)]
    await asyncio.gather(*(storage.initialize() for storage in storages))
    for n, storage in enumerate(storages):
        await storage.create_job(Job(id=f"job-{n}", schedule=ScheduleSpec(every="1h")))
    assert await storages[0].last_jobs_seq() == 5
    await asyncio.gather(*(storage.close() for storage in storages))


async def test_a_later_version_whose_tables_this_one_honours_is_used(sql_url: str) -> None:
    storage = SQLStorage(sql_url)
    await storage.initialize()
    await execute(sql_url, text("UPDATE natscron_version SET version_num = '9999'"))
    await execute(sql_url, text("ALTER TABLE scheduler_jobs ADD COLUMN of_the_future INTEGER"))
    await storage.close()
    await storage.initialize()
    await storage.create_job(Job(id="a", schedule=ScheduleSpec(every="1h")))
    assert await storage.fetch_job("a") is not None
    await storage.close()
    assert await scalars(sql_url, text("SELECT version_num FROM natscron_version")) == ["9999"]


async def test_a_later_version_that_this_one_cannot_honour_is_refused_with_both_numbers(sql_url: str) -> None:
    storage = SQLStorage(sql_url)
    await storage.initialize()
    await execute(sql_url, text("UPDATE natscron_version SET version_num = '9999'"))
    await execute(sql_url, update(meta).where(meta.c.name == "reader").values(number=READER + 6))
    # One that runs already finds out when it is asked for its health.
    with pytest.raises(SchemaTooNewError, match=rf"reader {READER + 6}.*has {READER}"):
        await storage.health_check()
    await storage.close()
    with pytest.raises(SchemaTooNewError, match=rf"reader {READER + 6}.*has {READER}"):
        await storage.initialize()
    assert await scalars(sql_url, text("SELECT count(*) FROM scheduler_jobs")) == [0]


async def test_tables_of_a_later_version_that_says_nothing_are_refused(sql_url: str) -> None:
    await execute(sql_url, text("CREATE TABLE natscron_version (version_num VARCHAR(32) NOT NULL)"))
    await execute(sql_url, text("INSERT INTO natscron_version VALUES ('9999')"))
    with pytest.raises(SchemaTooNewError, match="an unknown one"):
        await SQLStorage(sql_url).initialize()


async def test_what_a_broken_off_step_left_is_completed(sql_url: str) -> None:
    """MySQL commits each statement of a step: here two tables and a counter are there, and no version."""
    engine = Address.parse(sql_url).engine(2)
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: metadata.create_all(sync, [meta, metadata.tables["scheduler_lease"]]))
        await connection.execute(insert(meta).values(name="jobs", number=7))
    await engine.dispose()
    storage = SQLStorage(sql_url)
    await storage.initialize()
    assert await storage.create_job(Job(id="a", schedule=ScheduleSpec(every="1h"))) == 8
    await storage.close()


def test_the_steps_are_in_the_package() -> None:
    import natscron.storage.sql.migrations as steps  # noqa: PLC0415 - the package's own data

    names = {path.name for path in Path(next(iter(steps.__path__))).glob("rev_*.py")}
    assert "rev_0001_tables.py" in names
