"""Synchronous schedulers in processes that fork."""

from tests.support.programs import Start, end_of

# Forks.


def test_a_child_starts_its_own_and_the_parents_goes_on(start_program: Start) -> None:
    process = start_program(
        """
        parent = os.getpid()
        scheduler = Scheduler("memory://")

        @scheduler.every("20ms", id="tick")
        def tick(event):
            fired.add(os.getpid())

        def child():
            fired.clear()
            # The call waits for the child's own start.
            say("jobs of the child", *sorted(job.id for job in scheduler.list_jobs()))
            say("it runs", scheduler.is_running)
            until(lambda: os.getpid() in fired)
            say("fired by the child", fired == {os.getpid()})

        fired = set()
        scheduler.add_job("called", every("1h"), handler="tick")
        scheduler.start()
        wait_for(fork(child))
        fired.clear()
        until(lambda: parent in fired)
        scheduler.add_job("other", every("1h"), handler="tick")
        say("jobs of the parent", *sorted(job.id for job in scheduler.list_jobs()))
        """
    )
    assert end_of(process) == [
        "jobs of the child called tick",
        "it runs True",
        "fired by the child True",
        "child exited 0",
        "jobs of the parent called other tick",
    ]


def test_a_start_in_the_child_is_taken_for_the_one_that_was_made_for_it(start_program: Start) -> None:
    process = start_program(
        """
        from natscron import SchedulerAlreadyStartedError
        scheduler = Scheduler("memory://", print)

        def child():
            scheduler.start()
            say("started", scheduler.is_running)
            try:
                scheduler.start()
            except SchedulerAlreadyStartedError:
                say("and once only")
            scheduler.stop()
            say("stopped", scheduler.is_running)
            scheduler.start()
            say("again", scheduler.is_running)

        with scheduler:
            wait_for(fork(child))
            say("parent", scheduler.is_running)
        """
    )
    assert end_of(process) == [
        "started True",
        "and once only",
        "stopped False",
        "again True",
        "child exited 0",
        "parent True",
    ]


def test_a_scheduler_that_did_not_run_is_not_started_in_the_child(start_program: Start) -> None:
    process = start_program(
        """
        scheduler, stopped = Scheduler("memory://", print), Scheduler("memory://", print)
        with stopped:
            pass

        def child():
            say(scheduler.is_running, stopped.is_running, threading.active_count())
            scheduler.add_job("a", every("1h"))
            with scheduler:
                say(*(job.id for job in scheduler.list_jobs()))

        wait_for(fork(child))
        """
    )
    assert end_of(process) == ["False False 1", "a", "child exited 0"]


def test_children_that_do_a_piece_of_work_start_none(start_program: Start) -> None:
    process = start_program(
        """
        import multiprocessing, subprocess
        scheduler = Scheduler("memory://", print)

        def work():
            say("multiprocessing", scheduler.is_running, threading.active_count())

        def before_exec():
            os.write(1, f"subprocess {threading.active_count()}\\n".encode())

        with scheduler:
            child = multiprocessing.get_context("fork").Process(target=work)
            child.start()
            child.join()
            subprocess.run([sys.executable, "-c", ""], preexec_fn=before_exec, check=True)
            say("parent", scheduler.is_running, len(scheduler.list_jobs()))
        """
    )
    assert end_of(process) == ["multiprocessing False 1", "subprocess 1", "parent True 0"]


def test_a_child_forks_a_child(start_program: Start) -> None:
    process = start_program(
        """
        scheduler = Scheduler("memory://", print)

        def grandchild():
            say("grandchild", len(scheduler.list_jobs()))

        def child():
            say("child", len(scheduler.list_jobs()))
            wait_for(fork(grandchild))

        with scheduler:
            scheduler.add_job("a", every("1h"))
            wait_for(fork(child))
        """
    )
    assert end_of(process) == ["child 1", "grandchild 1", "child exited 0", "child exited 0"]


def test_listeners_are_told_in_the_child_too(start_program: Start) -> None:
    process = start_program(
        """
        scheduler = Scheduler("memory://", lambda event: None)
        told = []
        scheduler.on("run_finished", lambda run: told.append(os.getpid()))

        def child():
            told.clear()
            scheduler.trigger("a")
            until(lambda: told)
            say("told in the child", told == [os.getpid()])

        with scheduler:
            scheduler.add_job("a", every("1h"))
            scheduler.trigger("a")
            until(lambda: told)
            wait_for(fork(child))
        """
    )
    assert end_of(process) == ["told in the child True", "child exited 0"]


def test_a_handler_may_fork_and_many_forks_at_a_time_do_no_harm(start_program: Start) -> None:
    process = start_program(
        """
        def at_once():
            say(len(scheduler.list_jobs()))

        scheduler = Scheduler("memory://", lambda event: wait_for(fork(at_once)))

        with scheduler:
            for number in range(4):
                scheduler.add_job(f"job{number}", every("1h"))
            for number in range(4):
                scheduler.trigger(f"job{number}")
            until(lambda: len(scheduler.list_runs(status="completed")) == 4)
        """
    )
    assert sorted(end_of(process)) == ["4"] * 4 + ["child exited 0"] * 4


def test_what_the_parent_opened_is_neither_used_nor_closed_in_the_child(start_program: Start) -> None:
    process = start_program(
        """
        class Opened(MemoryStorage):
            "Notes what is done with it, in which process."

            def __init__(self, *arguments):
                super().__init__(*arguments)
                self.owner = os.getpid()

            def in_child(self):
                return Opened(self.cluster.copy_of_rows())

            async def close(self):
                say("closed by its owner", self.owner == os.getpid())
                await super().close()

            def __del__(self):
                say("deleted by its owner", self.owner == os.getpid())

        scheduler = Scheduler(Opened(), print)

        def child():
            say("child", len(scheduler.list_jobs()))
            scheduler.stop()
            gc.collect()

        scheduler.start()
        scheduler.add_job("a", every("1h"))
        wait_for(fork(child))
        scheduler.stop()
        """
    )
    lines = end_of(process)
    child = lines.index("child exited 0")
    # The child's own storage; the parent's is not let go of, at the child's exit either.
    assert lines[:2] == ["child 1", "closed by its owner True"]
    assert lines[child + 1] == "closed by its owner True"
    assert {line for line in lines if "its owner" in line} <= {"closed by its owner True", "deleted by its owner True"}


def test_a_storage_that_cannot_be_opened_anew_is_named_in_the_child(start_program: Start) -> None:
    process = start_program(
        """
        import natscron.sync.life
        natscron.sync.life._RESTARTS_S = (0.01,)

        class Odd(MemoryStorage):
            in_child = None

        logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s %(error)s")
        logging.Formatter.format = lambda self, record: f"{record.msg}: {getattr(record, 'error', '')}"
        scheduler = Scheduler(Odd(), print)

        def child():
            try:
                scheduler.list_jobs()
            except Exception as error:
                say(type(error).__name__)
            try:
                scheduler.start()
            except Exception as error:
                say(type(error).__name__, error)

        with scheduler:
            wait_for(fork(child))
        """
    )
    lines = end_of(process)
    assert "SchedulerNotStartedError" in lines
    assert any(line.startswith("the scheduler cannot be started after the fork now: Odd was used") for line in lines)
    assert any(line.startswith("ConfigError Odd was used in the process") for line in lines)
    assert lines[-1] == "child exited 0"


def test_a_start_after_the_fork_is_tried_again(start_program: Start) -> None:
    process = start_program(
        """
        from natscron import StorageUnavailableError
        import natscron.sync.life
        natscron.sync.life._RESTARTS_S = (0.01,) * 10

        class Away(MemoryStorage):
            tries = 0

            def in_child(self):
                return Away(self.cluster.copy_of_rows())

            async def initialize(self):
                Away.tries += 1
                if 1 < Away.tries < 4:
                    raise StorageUnavailableError("away")

        scheduler = Scheduler(Away(), print)

        def child():
            scheduler.wait_until_running("10s")
            say("tries", Away.tries, len(scheduler.list_jobs()))

        with scheduler:
            scheduler.add_job("a", every("1h"))
            wait_for(fork(child))
        """
    )
    assert [line for line in end_of(process) if "cannot be started" not in line] == ["tries 4 1", "child exited 0"]


def test_the_async_scheduler_is_stopped_in_the_child_and_can_be_started_there(start_program: Start) -> None:
    process = start_program(
        """
        import natscron
        scheduler = natscron.Scheduler("memory://", lambda event: fired.append(os.getpid()))
        fired, told = [], []
        scheduler.on("run_finished", lambda run: told.append(os.getpid()))

        async def in_child():
            say("child", scheduler.is_running, scheduler.is_leader)
            try:
                await scheduler.list_jobs()
            except natscron.SchedulerNotStartedError as error:
                say(error)
            await scheduler.stop()
            await scheduler.add_job("b", every("1h"))
            fired.clear(), told.clear()
            async with scheduler:
                say(*(job.id for job in await scheduler.list_jobs()))
                await scheduler.trigger("b")
                while not told:
                    await asyncio.sleep(0.005)
                say("fired and told here", {*fired, *told} == {os.getpid()})

        def at_once():
            asyncio.run(in_child())

        async def main():
            async with scheduler:
                await scheduler.add_job("a", every("1h"))
                await asyncio.to_thread(lambda: wait_for(fork(at_once)))
                await scheduler.trigger("a")
                while os.getpid() not in told:
                    await asyncio.sleep(0.005)
                say("the parent goes on", scheduler.is_running)

        asyncio.run(main())
        """
    )
    assert end_of(process) == [
        "child False False",
        "scheduler not started: start it first, in this process",
        "a b",
        "fired and told here True",
        "child exited 0",
        "the parent goes on True",
    ]
