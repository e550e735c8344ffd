"""What the shipped test help promises: virtual time under a test of the user's, whatever runs it."""

import asyncio
import contextlib
import datetime as dt
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from natscron import JobEvent, Run, Scheduler, SchedulerNotStartedError, cron, every, once
from natscron.testing import virtual
from natscron.testing.scheduler import VirtualScheduler, run_virtual, virtual_scheduler
from natscron.testing.virtual import DeadlockError, VirtualLoop

USERS_TESTS = """
import pytest
from natscron import cron


@pytest.fixture
def calls(natscron_scheduler):
    calls = []
    natscron_scheduler.set_handler(calls.append)
    natscron_scheduler.run(natscron_scheduler.add_job("nightly", cron("0 3 * * *")))
    return calls


{mark}
async def test_nightly(natscron_scheduler, calls):
    await natscron_scheduler.advance("25h")
    assert len(calls) == 1


{mark}
async def test_indirectly(calls, request):
    await request.getfixturevalue("natscron_scheduler").advance("49h")
    assert len(calls) == 2


class TestOfAClass:
    {mark}
    async def test_nightly(self, natscron_scheduler, calls):
        await natscron_scheduler.advance("25h")
        assert len(calls) == 1


def test_without_async(natscron_scheduler, calls):
    natscron_scheduler.run(natscron_scheduler.advance("25h"))
    assert len(calls) == 1


{mark}
async def test_that_fails(natscron_scheduler):
    await natscron_scheduler.advance("1h")
    assert natscron_scheduler.now is None


def test_that_does_not_use_it():
    import sys
    assert "natscron.scheduler" not in sys.modules or True
"""
NO = ("-p", "no:cacheprovider", "-p", "no:asyncio")
FINDING = """
from natscron.testing import plugin

def pytest_configure(config):
    if not config.pluginmanager.is_registered(plugin):
        config.pluginmanager.register(plugin)
"""


def run_pytest(folder: Path, tests: str, *args: str) -> str:
    (folder / "conftest.py").write_text(FINDING)
    (folder / "test_users.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", *NO, *args, str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50, cwd=folder)  # noqa: S603 - our own interpreter
    return found.stdout + found.stderr


@pytest.mark.parametrize(("mark", "args"), [("", ("-p", "no:anyio")), ("@pytest.mark.anyio", ())])
def test_the_fixture_needs_neither_configuration_nor_another_plugin(
    tmp_path: Path, mark: str, args: tuple[str]
) -> None:
    told = run_pytest(tmp_path, USERS_TESTS.replace("{mark}", mark), *args)
    assert "1 failed, 5 passed" in told, told
    assert "assert datetime.datetime(2027, 1, 15, 9, 0, tzinfo=datetime.timezone.utc) is None" in told, told


def test_the_plugin_loads_nothing_until_a_test_asks_for_it(tmp_path: Path) -> None:
    tests = """
import sys

def test_that_does_not_use_it():
    loaded = {name for name in sys.modules if name.startswith("natscron")}
    assert loaded == {"natscron", "natscron.testing", "natscron.testing.plugin"}, loaded
    assert "msgspec" not in sys.modules
"""
    assert "1 passed" in run_pytest(tmp_path, tests, "-p", "no:anyio", "-p", "no:hypothesispytest")


def test_options_come_from_a_fixture_that_a_module_defines(tmp_path: Path) -> None:
    tests = """
import datetime as dt
import pytest

@pytest.fixture
def natscron_options():
    return {"now": dt.datetime(2030, 1, 1, tzinfo=dt.timezone.utc), "instance": "me"}

async def test_the_year(natscron_scheduler):
    assert natscron_scheduler.now.year == 2030
    natscron_scheduler.set_handler(lambda event: None)
    from natscron import every
    await natscron_scheduler.add_job("a", every("1h"))
    await natscron_scheduler.advance("1h")
    [run] = await natscron_scheduler.list_runs("a")
    assert run.instance == "me"
"""
    assert "1 passed" in run_pytest(tmp_path, tests)


async def test_a_night_passes_at_once(natscron_scheduler: VirtualScheduler) -> None:
    calls: list[JobEvent] = []
    natscron_scheduler.set_handler(calls.append)
    await natscron_scheduler.add_job("nightly", cron("0 3 * * *"))
    began = time.monotonic()
    await natscron_scheduler.advance("25h")
    assert time.monotonic() - began < 5
    assert [event.scheduled_at for event in calls] == [dt.datetime(2027, 1, 16, 3, tzinfo=dt.UTC)]
    assert natscron_scheduler.now == dt.datetime(2027, 1, 16, 9, tzinfo=dt.UTC)


async def test_what_is_due_at_the_very_end_has_run_and_what_is_due_later_has_not(
    natscron_scheduler: VirtualScheduler,
) -> None:
    calls: list[JobEvent] = []
    natscron_scheduler.set_handler(calls.append)
    await natscron_scheduler.add_job("a", every("1s"))
    await natscron_scheduler.add_job("b", every("700ms"))
    for n in range(1, 200):
        await natscron_scheduler.advance("100ms")
        assert len([event for event in calls if event.id == "a"]) == n // 10, n
        assert len([event for event in calls if event.id == "b"]) == n // 7, n


async def test_a_chain_of_steps_that_take_no_time_is_followed_to_its_end(natscron_scheduler: VirtualScheduler) -> None:
    seen: list[str] = []

    async def first(event: JobEvent) -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        await natscron_scheduler.trigger("second")
        seen.append(event.id)

    natscron_scheduler.handler("first")(first)
    natscron_scheduler.handler("second")(lambda event: seen.append(event.id))
    await natscron_scheduler.add_job("first", every("1h"), handler="first")
    await natscron_scheduler.add_job("second", once(dt.datetime(2031, 1, 1, tzinfo=dt.UTC)), handler="second")
    await natscron_scheduler.advance("1h")
    assert seen == ["first", "second"]


async def test_handlers_sleep_in_virtual_time_and_are_not_waited_for(natscron_scheduler: VirtualScheduler) -> None:
    ended: list[dt.datetime] = []

    async def slow(_event: JobEvent) -> None:
        await asyncio.sleep(90)
        ended.append(natscron_scheduler.now)

    natscron_scheduler.set_handler(slow)
    await natscron_scheduler.add_job("a", every("1h"))
    await natscron_scheduler.advance("1h")
    assert not ended
    assert (await natscron_scheduler.get_job("a")).is_running
    await natscron_scheduler.advance(dt.timedelta(seconds=90))
    assert ended == [dt.datetime(2027, 1, 15, 9, 1, 30, tzinfo=dt.UTC)]


async def test_time_stands_still_while_a_thread_runs(natscron_scheduler: VirtualScheduler) -> None:
    seen: list[tuple[dt.datetime, dt.datetime, bool]] = []

    def busy(_event: JobEvent) -> None:
        began = natscron_scheduler.now
        time.sleep(0.02)
        seen.append((began, natscron_scheduler.now, threading.current_thread() is threading.main_thread()))

    natscron_scheduler.set_handler(busy)
    await natscron_scheduler.add_job("a", every("10s"))
    await natscron_scheduler.add_job("b", every("10s"))
    await natscron_scheduler.advance("20s")
    assert len(seen) == 4
    assert all(began == ended and not on_main for began, ended, on_main in seen)


def test_a_handler_in_a_thread_sleeps_in_virtual_time_too() -> None:
    async def main(scheduler: VirtualScheduler) -> None:
        seen: list[dt.datetime] = []

        def slow(_event: JobEvent) -> None:
            scheduler.sleep("10m")
            seen.append(scheduler.now)

        scheduler.set_handler(slow)
        await scheduler.add_job("a", every("1h"))
        await scheduler.advance("1h")
        assert not seen
        await scheduler.advance("10m")
        assert seen == [dt.datetime(2027, 1, 15, 9, 10, tzinfo=dt.UTC)]

    run_virtual(main)


async def test_finish_lets_retries_come_to_their_end(natscron_scheduler: VirtualScheduler) -> None:
    tries: list[int] = []

    async def fails_twice(event: JobEvent) -> None:
        tries.append(event.attempt)
        await asyncio.sleep(10)
        if event.attempt < 3:
            raise ValueError

    natscron_scheduler.set_handler(fails_twice)
    await natscron_scheduler.add_job("a", every("1h"), retry=3)
    run_id = await natscron_scheduler.trigger("a")
    await natscron_scheduler.finish()
    assert tries == [1, 2, 3]
    assert (await natscron_scheduler.get_run(run_id)).status == "completed"


async def test_finish_has_a_bound(natscron_scheduler: VirtualScheduler) -> None:
    async def for_ever(_event: JobEvent) -> None:
        await asyncio.Event().wait()

    natscron_scheduler.set_handler(for_ever)
    await natscron_scheduler.add_job("a", every("1h"))
    await natscron_scheduler.trigger("a")
    with pytest.raises(TimeoutError, match="still going"):
        await natscron_scheduler.finish("2h")


async def test_a_programs_own_scheduler_is_tested_by_including_it(natscron_scheduler: VirtualScheduler) -> None:
    app = Scheduler("memory://", worker=False)
    calls: list[str] = []
    finished: list[Run] = []

    @app.job("report", cron("0 9 * * *"), metadata={"team": "a"})
    def report(event: JobEvent) -> None:
        calls.append(event.metadata["team"])

    @app.every("6h", id="refresh")
    async def refresh(event: JobEvent) -> None:
        calls.append(event.id)

    app.on("run_finished", finished.append)
    await natscron_scheduler.include(app)
    await natscron_scheduler.advance("24h")
    assert sorted(calls) == ["a", "refresh", "refresh", "refresh", "refresh"]
    assert len(finished) == 5
    assert not app.is_running


def test_a_plain_test_calls_it_through_run() -> None:
    with virtual_scheduler(lambda _event: None) as scheduler:
        scheduler.run(scheduler.add_job("a", every("1m")))
        scheduler.run(scheduler.advance("1h"))
        assert len(scheduler.run(scheduler.list_runs("a"))) == 60
        before = scheduler.now
        time.sleep(0.01)
        assert scheduler.now == before
    assert not scheduler.is_running


def test_what_main_gives_or_raises_comes_out() -> None:
    async def gives(scheduler: VirtualScheduler) -> int:
        await scheduler.advance("1h")
        return 7

    async def raises(scheduler: VirtualScheduler) -> None:
        await scheduler.advance("1h")
        raise ArithmeticError

    assert run_virtual(gives) == 7
    with pytest.raises(ArithmeticError):
        run_virtual(raises)


def test_it_cannot_be_called_from_another_loop() -> None:
    async def elsewhere(scheduler: VirtualScheduler) -> None:
        await scheduler.list_jobs()

    with virtual_scheduler() as scheduler:
        with pytest.raises(RuntimeError, match="virtual loop of its own"):
            asyncio.run(elsewhere(scheduler))
        with pytest.raises(RuntimeError, match="virtual loop of its own"):
            asyncio.run(scheduler.advance("1h"))


def test_it_cannot_be_made_on_a_real_loop() -> None:
    async def main() -> None:
        VirtualScheduler()

    with pytest.raises(RuntimeError, match="VirtualLoop"):
        asyncio.run(main())


async def test_it_may_be_stopped_and_started_again(natscron_scheduler: VirtualScheduler) -> None:
    calls: list[JobEvent] = []
    natscron_scheduler.set_handler(calls.append)
    await natscron_scheduler.add_job("a", every("1h"))
    await natscron_scheduler.advance("1h")
    await natscron_scheduler.stop()
    await natscron_scheduler.advance("5h30m")
    with pytest.raises(SchedulerNotStartedError):
        await natscron_scheduler.get_job("a")
    await natscron_scheduler.start()
    await natscron_scheduler.settle()
    assert [event.is_catch_up for event in calls] == [False, True]
    assert len(await natscron_scheduler.list_runs("a", status="completed")) == 2


def test_nothing_is_left_of_a_test_that_leaves_things_behind() -> None:
    cancelled: list[str] = []

    async def main(scheduler: VirtualScheduler) -> None:
        async def for_ever() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append("task")
                raise

        scheduler.set_handler(lambda _event: None)
        left.append(asyncio.ensure_future(for_ever()))
        await scheduler.add_job("a", every("1s"))
        await scheduler.advance("1m")

    left: list[asyncio.Future[None]] = []
    run_virtual(main)
    assert cancelled == ["task"]
    assert left[0].cancelled()


def test_a_thread_that_waits_for_virtual_time_is_told_instead_of_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual, "PATIENCE_S", 0.05)
    free = threading.Event()

    async def main() -> None:
        asyncio.get_running_loop().call_later(5, free.set)
        await asyncio.to_thread(free.wait)

    loop = VirtualLoop()
    with pytest.raises(DeadlockError, match="in a thread must not wait"):
        loop.run_until_complete(main())
    free.set()
    for task in asyncio.all_tasks(loop):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(asyncio.gather(*asyncio.all_tasks(loop)))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_a_loop_that_closes_wakes_the_threads_that_sleep_on_it() -> None:
    loop = VirtualLoop()
    woken = threading.Event()

    async def main() -> None:
        def sleeps() -> None:
            loop.block(3_600)
            woken.set()

        loop.run_in_executor(None, sleeps)
        while not loop._blocked:  # noqa: ASYNC110 - a bound is the test's own timeout
            await asyncio.sleep(0)

    loop.run_until_complete(main())
    loop.close()
    assert woken.wait(10)


def test_timers_go_off_after_years_of_virtual_time() -> None:
    async def main() -> None:
        for _ in range(5):
            await asyncio.sleep(86_400 * 365.25)
            await asyncio.gather(*[asyncio.sleep(n / 7) for n in range(100)])

    virtual.run(main())
