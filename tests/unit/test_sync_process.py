"""Synchronous schedulers in processes of their own: signals, the interpreter's end, forks."""

import signal

import pytest
from tests.support.programs import Start, end_of, line_of

# Signals.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_forever_ends_in_order_on_a_signal(start_program: Start, number: signal.Signals) -> None:
    process = start_program(
        """
        scheduler = Scheduler("memory://")

        @scheduler.every("10ms")
        def tick(event):
            say("handler begins")
            time.sleep(0.2)
            say("handler ends")

        scheduler.run_forever()
        say("over", scheduler.is_running, signal.getsignal(signal.SIGINT) is signal.default_int_handler)
        """
    )
    assert line_of(process) == "handler begins"
    process.send_signal(number)
    lines = end_of(process)
    assert lines[-2:] == ["handler ends", "over False True"]


def test_a_second_signal_cuts_handlers_off(start_program: Start) -> None:
    process = start_program(
        """
        scheduler = Scheduler("memory://", stop_timeout="1h")

        @scheduler.every("10ms", id="long")
        async def long(event):
            say("handler begins")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                say("cut off")
                raise

        threading.Thread(target=lambda: (until(lambda: scheduler.is_running),
                                         until(lambda: not scheduler.is_running), say("stopping")), daemon=True).start()
        scheduler.run_forever()
        say("over")
        """
    )
    assert line_of(process) == "handler begins"
    process.terminate()
    assert line_of(process) == "stopping"
    process.terminate()
    assert end_of(process) == ["cut off", "over"]


def test_two_signals_at_once_are_a_second_one_too(start_program: Start) -> None:
    process = start_program(
        """
        scheduler = Scheduler("memory://", stop_timeout="1h")

        @scheduler.every("10ms", id="long")
        async def long(event):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

        before = signal.signal(signal.SIGTERM, lambda *_: say("mine"))
        scheduler.run_forever()
        assert signal.getsignal(signal.SIGTERM) is not before
        """
    )
    assert end_of(process) == []


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_child_ends_when_it_is_told_to_and_its_parent_hears_nothing_of_it(start_program: Start, kind: str) -> None:
    process = start_program(
        f"""
        import multiprocessing
        scheduler = {"Scheduler" if kind == "sync" else "natscron.Scheduler"}("memory://")

        @scheduler.every("10ms", id="work")
        def work(event):
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            child.start()
            child.terminate()
            child.join()
            say("the child has ended", child.exitcode)

        scheduler.run_forever() if {kind!r} == "sync" else asyncio.run(scheduler.run_forever())
        say("over")
        """
    )
    for _ in range(3):
        assert line_of(process) == f"the child has ended -{signal.SIGTERM.value}"
    process.terminate()
    assert end_of(process)[-1] == "over"


# The interpreter's end.


def test_a_scheduler_that_still_runs_is_stopped_when_the_interpreter_ends(start_program: Start) -> None:
    process = start_program(
        """
        logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
        scheduler = Scheduler("memory://")

        @scheduler.every("10ms", id="job")
        def job(event):
            begun.set()
            time.sleep(0.2)
            say("handler ends")

        begun = threading.Event()
        scheduler.start()
        begun.wait(10)
        say("main ends")
        """
    )
    lines = end_of(process)
    assert lines.index("main ends") < lines.index("handler ends")
    assert lines[-1] == "scheduler stopped"


def test_a_handler_that_does_not_end_keeps_no_process_from_ending(start_program: Start) -> None:
    process = start_program(
        """
        scheduler = Scheduler("memory://", stop_timeout="50ms")

        @scheduler.every("10ms", id="stuck")
        def stuck(event):
            begun.set()
            threading.Event().wait()

        begun = threading.Event()
        scheduler.start()
        begun.wait(10)
        say("main ends")
        """,
    )
    assert end_of(process)[0] == "main ends"


def test_nor_does_an_async_handler_that_blocks_the_loop(start_program: Start) -> None:
    process = start_program(
        """
        import natscron.sync.life
        natscron.sync.life._AT_EXIT_S = 0.5
        scheduler = Scheduler("memory://", stop_timeout="50ms")

        @scheduler.every("10ms", id="stuck")
        async def stuck(event):
            begun.set()
            threading.Event().wait()

        begun = threading.Event()
        scheduler.start()
        begun.wait(10)
        say("main ends")
        """,
    )
    lines = end_of(process)
    assert lines[0] == "main ends"
    assert "the scheduler was not stopped in order" in lines[1]
