"""``nats-cron migrate`` as a user starts it."""

import asyncio
import json
import os
import pty
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import text
from tests.support.databases import PASSWORD
from tests.support.sql import execute
from tests.unit.migrating import NOW, held, records, run, seed

from natscron.model import Job, ScheduleSpec
from natscron.storage.queue import record_id
from natscron.storage.sql import SQLStorage

pytestmark = pytest.mark.anyio

COMMAND = (sys.executable, "-m", "natscron", "migrate")
PIPE = asyncio.subprocess.PIPE
TABLE = """\
            {0:<{width}}  SKIPPED  REFUSED
jobs        {1:<{width}}  {2:<7}  0
executions  {3:<{width}}  {4:<7}  0
calendars   {5:<{width}}  {6:<7}  0
"""


class Ended(NamedTuple):
    code: int
    out: str
    err: str


async def start(*args: str, stderr: int = PIPE) -> asyncio.subprocess.Process:
    kept = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "FORCE_COLOR", "COLUMNS"}}
    return await asyncio.create_subprocess_exec(*COMMAND, *args, stdout=PIPE, stderr=stderr, env=kept)


async def migrate(*args: str) -> Ended:
    process = await start(*args)
    out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


def table(heading: str, *numbers: int) -> str:
    return TABLE.format(heading, *numbers, width=len(heading))


@pytest.fixture
async def source(tmp_path: Path) -> str:
    """A SQLite file with something of everything; nobody has it open."""
    url = f"sqlite:///{tmp_path}/source.db"
    storage = SQLStorage(url)
    await storage.initialize()
    await seed(storage)
    await storage.close()
    return url


async def test_a_storage_is_copied_with_a_dry_run_before_and_a_second_run_after(source: str, tmp_path: Path) -> None:
    target = tmp_path / "target.db"
    url = f"sqlite:///{target}"
    dry = await migrate(source, url, "--dry-run", "--removed-jobs")
    assert (dry.code, dry.out) == (
        0,
        table("TO MIGRATE", 3, 0, 7, 0, 1, 0) + "Nothing was copied: this was a dry run\n",
    )
    assert not target.exists()
    done = await migrate(source, url)
    assert (done.code, done.out) == (0, table("MIGRATED", 3, 0, 6, 0, 1, 0))
    assert done.err.splitlines() == ["executions: 0 of 0/3 jobs", "calendars: 0 of 1", "jobs: 0 of 3"]
    again = await migrate(source, url, "--dry-run")
    assert again.out.startswith(table("TO MIGRATE", 0, 3, 0, 6, 0, 1))
    again = await migrate(source, url, "--removed-jobs")
    assert (again.code, again.out) == (0, table("MIGRATED", 0, 3, 1, 6, 0, 1))
    src, dst = SQLStorage(source), SQLStorage(url)
    await src.initialize()
    await dst.initialize()
    assert (await held(dst))[:2] == (await held(src))[:2]
    await src.close()
    await dst.close()


async def test_programs_get_one_json_document_and_nothing_else(source: str, tmp_path: Path) -> None:
    done = await migrate(source, f"sqlite:///{tmp_path}/target.db", "--json", "--no-executions")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == {
        "dry_run": False,
        "jobs_migrated": 3,
        "jobs_skipped": 0,
        "executions_migrated": 0,
        "executions_skipped": 0,
        "calendars_migrated": 1,
        "calendars_skipped": 0,
        "jobs_refused": 0,
        "executions_refused": 0,
        "calendars_refused": 0,
        "runs_open": 0,
        "warnings": [],
    }


async def test_a_terminal_gets_a_bar_for_each_stage(source: str, tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    process = await start(source, f"sqlite:///{tmp_path}/target.db", stderr=follower)
    os.close(follower)
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                found = os.read(leader, 65_536)
            except OSError:  # the other end is closed
                return
            if not found:
                return
            shown.extend(found)

    reading = asyncio.get_running_loop().run_in_executor(None, read)
    out, _ = await process.communicate()
    await reading
    os.close(leader)
    assert process.returncode == 0
    assert out.decode() == table("MIGRATED", 3, 0, 6, 0, 1, 0)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", plain) if line.strip()]
    for stage, end in (("executions", "6 of 3/3 jobs"), ("calendars", "1 of 1"), ("jobs", "3 of 3")):
        assert any(line.startswith(stage) and end in line for line in lines), (stage, lines)
    assert "━" in plain


async def test_what_is_refused_is_warned_of_and_makes_the_exit_code_one(source: str, tmp_path: Path) -> None:
    await execute(source, text("UPDATE scheduler_jobs SET row_data = X'7B7D' WHERE id = 'hourly'"))
    done = await migrate(source, f"sqlite:///{tmp_path}/target.db")
    assert done.code == 1
    assert done.out.splitlines()[1].split() == ["jobs", "2", "0", "1"]
    assert re.search(r"^Warning: job 'hourly' cannot be read: ", done.err, re.MULTILINE)


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ((), 2, "Missing argument 'SRC'"),
        (("sqlite:///a.db",), 2, "Missing argument 'DST'"),
        (("memory://", "sqlite:///a.db"), 2, "SRC: memory:// is a process's own"),
        (("sqlite:///a.db", "memory://"), 2, "DST: memory:// is a process's own"),
        (("sqlite:///a.db", "sqlite+aiosqlite:///./a.db?timeout=5"), 2, "SRC and DST are the same storage"),
        (
            ("postgres://a:s3cret@DB/x", "postgresql+asyncpg://b:s3cret@db:5432/x"),
            2,
            "SRC and DST are the same storage",
        ),
        (("mysql://u:s3cret@h/x", "mariadb://u:s3cret@h/x", "--json"), 2, "SRC and DST are the same storage"),
        (("sqlite:///a.db", "sqlite:///b.db", "--no-executions", "--removed-jobs"), 2, "does not go with"),
        (("sqlite:///a.db", "postgresql://u:s3cret@[h/x"), 2, "cannot be read"),
        (("sqlite:///nowhere.db", "sqlite:///b.db"), 1, "SRC: there is no file nowhere.db"),
        (("mssql://u:s3cret@h/x", "sqlite:///b.db"), 1, "scheme 'mssql' is not supported"),
        (("u:s3cret@h/x", "sqlite:///b.db"), 1, "is not supported"),
        (("postgresql://u:s3cret@127.0.0.1:1/x", "sqlite:///b.db"), 1, "postgresql://u@127.0.0.1:1/x: "),
        (("mysql://u:s3cret@127.0.0.1:1/x", "sqlite:///b.db", "--json"), 1, "mysql://u@127.0.0.1:1/x: "),
    ],
)
async def test_what_cannot_work_is_said_without_a_password(
    args: tuple[str, ...], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = await migrate(*args)
    assert ended.code == code
    assert said in ended.err
    assert "s3cret" not in ended.out + ended.err
    assert "Traceback" not in ended.err
    if "--json" in args:
        assert said in json.loads(ended.err.splitlines()[-1])["error"]
    assert not (tmp_path / "b.db").exists() or code == 1


async def test_a_missing_driver_is_named_with_the_command_that_installs_it(source: str) -> None:
    code = (
        "import importlib.util as u, sys; find = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'asyncpg' else find(name, *more)\n"
        "from natscron.cli.main import main\n"
        "main(['migrate', *sys.argv[1:]])"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, source, "postgresql://u:s3cret@h/x"), stdout=PIPE, stderr=PIPE
    )
    _, err = await process.communicate()
    assert process.returncode == 1
    assert "pip install 'natscron[postgres]'" in err.decode()
    assert "s3cret" not in err.decode()


async def test_to_postgresql_and_on_after_each_time_the_process_was_killed(tmp_path: Path, postgresql_url: str) -> None:
    url = f"sqlite:///{tmp_path}/source.db"
    storage = SQLStorage(url)
    await storage.initialize()
    await seed(storage)
    await storage.create_job(Job(id="busy", schedule=ScheduleSpec(every="1s")))
    busy = [run("busy", n, at_ms=NOW - 3_600_000 + n // 9) for n in range(13_000)]
    for begin in range(0, len(busy), 1_000):
        await storage.import_runs(busy[begin : begin + 1_000])
    expected = {key: one for key, one in (await records(storage)).items() if one.job not in {"removed", "_service"}}
    await storage.close()
    for _ in range(2):
        process = await start(url, postgresql_url)
        assert process.stderr is not None
        said = b""
        async with asyncio.timeout(30):
            while not re.search(rb"executions: [1-9]", said):
                line = await process.stderr.readline()
                assert line, said
                said += line
        process.kill()
        await process.communicate()
        assert process.returncode == -9
    done = await migrate(url, postgresql_url, "--json")
    assert done.code == 0
    result = json.loads(done.out)
    assert result["executions_skipped"] >= 10_000
    assert result["executions_migrated"] + result["executions_skipped"] == len(expected)
    again = json.loads((await migrate(url, postgresql_url, "--json")).out)
    assert (again["jobs_migrated"], again["executions_migrated"], again["calendars_migrated"]) == (0, 0, 0)
    target = SQLStorage(postgresql_url)
    await target.initialize()
    history = await records(target)
    await target.close()
    assert history == expected
    assert len({record_id(one) for one in history.values()}) == len(expected)


async def test_a_wrong_password_is_said_but_never_shown(source: str, postgresql_url: str) -> None:
    wrong = re.sub(r":[^:@/]+@", ":wr0ng-one@", postgresql_url)
    ended = await migrate(source, wrong)
    assert ended.code == 1
    assert "password authentication failed" in ended.err
    assert "run it again to go on" in ended.err
    for secret in ("wr0ng-one", PASSWORD):
        assert secret not in ended.out + ended.err
