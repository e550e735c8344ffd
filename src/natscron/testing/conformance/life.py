"""What every storage does at the beginning and at the end of its life."""

# A check's name is its sentence, and assert is how it fails.
# ruff: noqa: D102, S101

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Final, cast

from natscron.errors import StorageNotInitializedError
from natscron.model import Calendar, Claim, Node, OpenRow, OpenState, Run, RunStatus
from natscron.storage.protocol import RunQuery, Storage
from natscron.storage.queue import QueueStorage
from natscron.testing.conformance.driving import ending_of, worker_info
from natscron.testing.conformance.sinks import a_job, fails, ignore

__all__ = ["LifecycleChecks"]

_NODE: Final = Node(instance="host", nonce="n", version="1", started_at_ms=5)
_ROW: Final = OpenRow(run_id="r", job_id="jobs.a", generation=1, scheduled_at_ms=5, state=OpenState.PENDING)
_CLAIM: Final = Claim(run_id="r", job="jobs.a", generation=1, scheduled_at_ms=0, due_ms=0)

_CALLS: Final[Mapping[str, Callable[[Storage], Awaitable[Any]]]] = {
    "health_check": lambda storage: storage.health_check(),
    "sweep": lambda storage: storage.sweep(),
    "create_job": lambda storage: storage.create_job(a_job()),
    "put_job": lambda storage: storage.put_job(a_job()),
    "delete_job": lambda storage: storage.delete_job("jobs.a"),
    "fetch_job": lambda storage: storage.fetch_job("jobs.a"),
    "put_calendar": lambda storage: storage.put_calendar(Calendar(name="a")),
    "delete_calendar": lambda storage: storage.delete_calendar("a"),
    "fetch_calendar": lambda storage: storage.fetch_calendar("a"),
    "last_jobs_seq": lambda storage: storage.last_jobs_seq(),
    "open_link": lambda storage: storage.open_link(ignore),
    "submit_row": lambda storage: storage.submit_row(_ROW),
    "fetch_row": lambda storage: storage.fetch_row("r"),
    "announce": lambda storage: storage.announce(_NODE),
    "retract": lambda storage: storage.retract(_NODE),
    "save_runs": lambda storage: storage.save_runs([Run(job="jobs.a", status=RunStatus.COMPLETED, run_id="r")]),
    "list_runs": lambda storage: storage.list_runs(RunQuery()),
    "last_runs": lambda storage: storage.last_runs(["jobs.a"]),
}
_QUEUE_CALLS: Final[Mapping[str, Callable[[QueueStorage], Awaitable[Any]]]] = {
    "claim": lambda storage: storage.claim("w", ("",), 1),
    "finish": lambda storage: storage.finish("w", [ending_of(_CLAIM)]),
    "give_back": lambda storage: storage.give_back("w", [_CLAIM]),
    "beat": lambda storage: storage.beat(worker_info()),
    "retire": lambda storage: storage.retire("w"),
    "workers": lambda storage: storage.workers(),
    "lost": lambda storage: storage.lost(1),
    "mark_unhandled": lambda storage: storage.mark_unhandled(),
    "drop_runs": lambda storage: storage.drop_runs("jobs.a", 1),
    "redrive": lambda storage: storage.redrive("r"),
    "activity": lambda storage: storage.activity(["jobs.a"]),
    "delete_runs": lambda storage: storage.delete_runs("jobs.a", 1),
}


def _calls(storage: Storage) -> dict[str, Callable[[], Awaitable[Any]]]:
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        name: (lambda call=call: call(storage))  # type: ignore[misc]
        for name, call in _CALLS.items()
    }
    if storage.capabilities.queue:
        queue = cast("QueueStorage", storage)
        calls |= {name: (lambda call=call: call(queue)) for name, call in _QUEUE_CALLS.items()}  # type: ignore[misc]
    return calls


class LifecycleChecks:
    """Initializing, closing and health.

    Takes a fixture ``fresh``: a storage that was not initialized, of an empty store; the fixture closes it.
    """

    needs_initialize: ClassVar[bool] = True
    """Calls before ``initialize`` and after ``close`` are refused; False for a storage that does not care."""

    async def test_initializing_twice_changes_nothing(self, fresh: Storage) -> None:
        await fresh.initialize()
        revision = await fresh.create_job(a_job())
        await fresh.initialize()
        job = await fresh.fetch_job("jobs.a")
        assert job is not None
        assert job.revision == revision
        await fresh.health_check()

    async def test_many_may_initialize_it_at_once(self, fresh: Storage) -> None:
        await asyncio.gather(*(fresh.initialize() for _ in range(5)))
        await fresh.health_check()
        assert await fresh.create_job(a_job()) == await fresh.last_jobs_seq()

    async def test_a_fresh_storage_has_nothing_in_it(self, fresh: Storage) -> None:
        await fresh.initialize()
        assert list(await fresh.list_runs(RunQuery())) == []
        assert await fresh.fetch_job("jobs.a") is None
        assert dict(await fresh.last_runs(["jobs.a"])) == {}

    async def test_calls_before_it_is_initialized_are_refused(self, fresh: Storage) -> None:
        if self.needs_initialize:
            for name, call in _calls(fresh).items():
                await _refused(name, call)
            await fresh.initialize()
        await fresh.health_check()
        assert await fresh.last_jobs_seq() == 0

    async def test_calls_after_it_is_closed_are_refused(self, fresh: Storage) -> None:
        await fresh.initialize()
        revision = await fresh.create_job(a_job())
        await fresh.close()
        if self.needs_initialize:
            for name, call in _calls(fresh).items():
                await _refused(name, call)
        else:
            assert await fresh.last_jobs_seq() == revision

    async def test_closing_may_come_twice_and_before_initializing(self, fresh: Storage) -> None:
        await fresh.close()
        await fresh.close()

    async def test_closing_twice_after_use(self, fresh: Storage) -> None:
        await fresh.initialize()
        await fresh.health_check()
        await fresh.close()
        await fresh.close()

    async def test_closing_ends_the_watches(self, fresh: Storage) -> None:
        await fresh.initialize()
        told: list[Run] = []
        watch = fresh.follow_runs(None, told.append)
        await watch.ready()
        await fresh.close()
        await watch.close()
        await watch.close()
        assert told == []


async def _refused(name: str, call: Callable[[], Awaitable[Any]]) -> None:
    try:
        await fails(StorageNotInitializedError, call())
    except AssertionError:
        raise AssertionError(f"{name} was not refused with StorageNotInitializedError") from None
