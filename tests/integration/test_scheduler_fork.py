"""A scheduler in the module of a web application, under gunicorn: one member per process, each slot once over all."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.programs import Start, end_of

from natscron.sync import Scheduler

EVERY_MS = 100
PATIENCE_S = 40.0
APP = """
import json, os, sys
from natscron import every
from natscron.sync import Scheduler

scheduler = Scheduler("sqlite:///jobs.db", stop_timeout="5s")

@scheduler.every("100ms", id="tick", overlap="allow")
def tick(event):
    line = f"{round(event.scheduled_at.timestamp() * 1000)} {os.getpid()}\\n"
    journal = os.open("ticks", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(journal, line.encode())
    os.close(journal)

if START == "import":
    scheduler.start()

def post_worker_init(worker):
    if START == "worker":
        scheduler.start()

def app(environ, start_response):
    # A call waits for the start that follows a fork.
    jobs = [job.id for job in scheduler.list_jobs()]
    body = json.dumps({"pid": os.getpid(), "running": scheduler.is_running, "jobs": jobs}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
"""


class Gunicorn:
    """A master and its workers, in a folder of their own."""

    def __init__(self, folder: Path, start: str, workers: int) -> None:
        self.folder = folder
        self.workers = workers
        (folder / "shop.py").write_text(f"START = {start!r}\n" + textwrap.dedent(APP))
        (folder / "gunicorn.conf.py").write_text(
            "def post_worker_init(worker):\n    import shop\n    shop.post_worker_init(worker)\n"
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self._log = (folder / "log").open("wb")
        # Python 3.12 and newer warn of a fork where there are threads: that is what is tried here.
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            [
                *(sys.executable, "-W", "ignore::DeprecationWarning", "-m", "gunicorn", "shop:app", "--preload"),
                *("--workers", str(workers), "--bind", address, "--graceful-timeout", "10"),
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self._web = httpx.Client(base_url=f"http://{address}", timeout=20)

    def close(self) -> None:
        """End all of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._web.close()
        self._log.close()

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def state(self) -> dict[str, Any]:
        """What one of the workers answers; empty as long as none does."""
        try:
            answer = self._web.get("/", headers={"Connection": "close"})
        except httpx.TransportError:
            return {}
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def running_workers(self) -> set[int]:
        """Ask until each of the workers has said that its scheduler runs; the process ids."""
        found: set[int] = set()

        def asked() -> bool:
            state = self.state()
            if state:
                assert state["jobs"] == ["tick"]
                assert state["running"]
                found.add(state["pid"])
            return len(found) >= self.workers

        self.until(asked)
        return found

    def ticks(self) -> list[tuple[int, int]]:
        """(slot, process id) of each call of the handler."""
        path = self.folder / "ticks"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(slot), int(pid)) for slot, pid in (line.split() for line in lines)]

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, self.log
            assert self.process.poll() is None, self.log
            time.sleep(0.02)

    def more_ticks(self, number: int) -> None:
        """Wait until the handler was called so many times more."""
        before = len(self.ticks())
        self.until(lambda: len(self.ticks()) >= before + number)

    def stop(self) -> None:
        """As a service manager does."""
        self.process.terminate()
        assert self.process.wait(PATIENCE_S) == 0, self.log
        assert "Traceback" not in self.log


@pytest.fixture
def gunicorn(tmp_path: Path) -> Iterator[Callable[[str, int], Gunicorn]]:
    running: list[Gunicorn] = []

    def start(how: str, workers: int) -> Gunicorn:
        running.append(Gunicorn(tmp_path, how, workers))
        return running[-1]

    yield start
    for one in running:
        one.close()


def assert_each_slot_once(ticks: list[tuple[int, int]]) -> None:
    slots = [slot for slot, _ in ticks]
    assert len(set(slots)) == len(slots)
    assert sorted(slots) == list(range(min(slots), max(slots) + 1, EVERY_MS))


def members_left(folder: Path) -> tuple[int, set[str]]:
    """How many workers the database still knows, and what its runs have come to, but for those nobody took any more."""
    with Scheduler(f"sqlite:///{folder}/jobs.db", worker=False, plan=False) as scheduler:
        inside: Any = scheduler._inside
        workers = scheduler._call(inside._storage.workers)
        return len(workers), {run.status.value for run in scheduler.list_runs("tick", limit=10_000)} - {"pending"}


@pytest.mark.timeout(180)
def test_one_that_was_started_in_the_master_runs_in_every_process_and_each_slot_once(
    gunicorn: Callable[[str, int], Gunicorn],
) -> None:
    server = gunicorn("import", 4)
    workers = server.running_workers()
    assert len(workers) == 4
    assert server.process.pid not in workers
    server.more_ticks(20)

    # A worker that is killed is replaced by one that is forked off the running master.
    victim = min(workers)
    os.kill(victim, signal.SIGKILL)
    server.until(lambda: server.state().get("pid") not in {None, *workers})
    assert victim not in server.running_workers()
    server.more_ticks(20)
    server.stop()

    ticks = server.ticks()
    # The killed one may have died in a handler; that run was tried again, under the same slot.
    assert_each_slot_once([(slot, pid) for slot, pid in dict(ticks).items()])
    assert len(ticks) - len(dict(ticks)) <= 1
    assert members_left(server.folder)[1] <= {"completed", "failed"}


@pytest.mark.timeout(120)
def test_one_that_is_started_in_each_worker_leaves_the_master_out(gunicorn: Callable[[str, int], Gunicorn]) -> None:
    server = gunicorn("worker", 2)
    workers = server.running_workers()
    server.more_ticks(20)
    server.stop()
    assert_each_slot_once(server.ticks())
    assert {pid for _, pid in server.ticks()} <= workers
    assert members_left(server.folder) == (0, {"completed"})


@pytest.mark.timeout(120)
def test_a_master_that_ends_stops_its_own(gunicorn: Callable[[str, int], Gunicorn]) -> None:
    server = gunicorn("import", 2)
    server.running_workers()
    server.more_ticks(5)
    server.stop()
    assert_each_slot_once(server.ticks())
    # Nobody's lease has to run out: all of them have left in order.
    assert members_left(server.folder) == (0, {"completed"})


# Forks of one's own, on SQLite.


def test_children_start_their_own_whatever_the_parent_is_doing(start_program: Start) -> None:
    process = start_program(
        """
        scheduler = Scheduler("sqlite:///jobs.db")

        @scheduler.every("10ms", overlap="allow", id="tick")
        def tick(event):
            pass

        def at_once():
            # A transaction of the parent, copied half done, would keep the child from the file for ever.
            say("child", *(job.id for job in scheduler.list_jobs()))

        scheduler.start()
        for _ in range(15):
            wait_for(fork(at_once))
        before = len(scheduler.list_runs("tick", limit=10_000))
        until(lambda: len(scheduler.list_runs("tick", limit=10_000)) > before)
        """
    )
    assert end_of(process) == ["child tick", "child exited 0"] * 15


def test_an_async_scheduler_can_be_started_in_the_child_if_its_loop_did_not_fork(start_program: Start) -> None:
    process = start_program(
        """
        scheduler = natscron.Scheduler("sqlite:///jobs.db", lambda event: None)

        def at_once():
            async def main():
                async with scheduler:
                    say("child", *(job.id for job in await scheduler.list_jobs()))

            try:
                asyncio.run(main())
            except natscron.ConfigError as error:
                say(error)

        async def main():
            async with scheduler:
                await scheduler.add_job("a", every("1h"))
                await asyncio.to_thread(lambda: wait_for(fork(at_once)))
                wait_for(fork(at_once))
                await scheduler.add_job("b", every("1h"))
                say("parent", *(job.id for job in await scheduler.list_jobs()))

        asyncio.run(main())
        """
    )
    first, _, refused, _, parent = end_of(process)
    assert first == "child a"
    assert refused.startswith("sqlite:///jobs.db: this process was forked off while SQLite was in use there")
    assert parent == "parent a b"


def test_schedulers_that_share_a_loop_and_a_storage_stand_still_together(start_program: Start) -> None:
    process = start_program(
        """
        import natscron.scheduler.forks
        natscron.scheduler.forks.STILL_S = 60
        storage = natscron.SQLStorage("sqlite:///jobs.db")
        one, other = (natscron.Scheduler(storage, lambda event: None, instance=name) for name in ("one", "other"))

        def at_once():
            async def main():
                async with one:
                    say("child", *(job.id for job in await one.list_jobs()))

            asyncio.run(main())

        async def main():
            async with one, other:
                await one.add_job("a", every("1h"))
                await asyncio.to_thread(lambda: wait_for(fork(at_once)))
                say("parent", *(job.id for job in await other.list_jobs()))
            await storage.close()

        asyncio.run(main())
        """
    )
    # The names are the same in the child, which is noticed there.
    lines = [line for line in end_of(process) if line != "another process uses this instance id"]
    assert lines == ["child a", "child exited 0", "parent a"]


def test_a_callers_engine_is_left_alone_in_the_child(start_program: Start) -> None:
    process = start_program(
        """
        from sqlalchemy.ext.asyncio import create_async_engine
        engine = create_async_engine("sqlite+aiosqlite:///jobs.db")
        scheduler = Scheduler(natscron.SQLStorage(engine), lambda event: None)

        def child():
            say("child", *(job.id for job in scheduler.list_jobs()), engine.pool is pool)

        with scheduler:
            pool = engine.pool
            scheduler.add_job("a", every("1h"))
            wait_for(fork(child))
            say("parent", *(job.id for job in scheduler.list_jobs()))
        """
    )
    assert end_of(process) == ["child a True", "child exited 0", "parent a"]


@pytest.mark.anyio
async def test_a_child_that_ends_leaves_the_parents_connections_alone(start_program: Start, sql_url: str) -> None:
    process = start_program(
        f"""
        scheduler = Scheduler({sql_url!r}, lambda event: None)

        def child():
            # It ends as programs do: all that it has is let go of.
            say("child", *(job.id for job in scheduler.list_jobs()))

        with scheduler:
            scheduler.add_job("a", every("1h"))
            for _ in range(2):
                wait_for(fork(child))
                run = scheduler.trigger("a")
                until(lambda: run in [one.run_id for one in scheduler.list_runs("a", status="completed")])
            say(scheduler.is_leader, scheduler.failure)
        """
    )
    assert await asyncio.to_thread(end_of, process) == ["child a", "child exited 0"] * 2 + ["True None"]
