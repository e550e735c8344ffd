"""When jobs ran last: what an instance knows itself, and what the history says."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import pytest

from natscron.clock import SystemClock
from natscron.engine.lastruns import LastRuns
from natscron.errors import StorageUnavailableError, StorageUncertainError
from natscron.model import Run, RunStatus
from natscron.storage.memory import MemoryCluster, MemoryStorage

if TYPE_CHECKING:
    from natscron.storage.protocol import ExecutionStore

pytestmark = pytest.mark.anyio


class Clock(SystemClock):
    """Trust time that is moved by hand."""

    at_s = 0.0

    def trust_s(self) -> float:
        return self.at_s


class History:
    """Answers, or fails."""

    def __init__(self) -> None:
        self.slots: dict[str, int] = {}
        self.error: Exception | None = None
        self.asked: list[list[str]] = []

    async def last_runs(self, job_ids: Sequence[str]) -> Mapping[str, int]:
        await asyncio.sleep(0)
        self.asked.append(list(job_ids))
        if self.error is not None:
            raise self.error
        return {job_id: self.slots[job_id] for job_id in job_ids if job_id in self.slots}


class Here:
    """An instance's view."""

    def __init__(self) -> None:
        self.history = History()
        self.clock = Clock()
        self.last_run: dict[str, int] = {}
        self.ran_before: dict[str, int] = {}
        self.leads = False
        self.runs = LastRuns(cast("ExecutionStore", self.history), self.clock, self, lambda: self.leads)


async def test_a_leader_answers_from_memory_and_asks_only_for_the_rest() -> None:
    here = Here()
    here.leads = True
    here.last_run.update(a=10)
    here.history.slots = {"a": 9, "b": 5}
    assert await here.runs.of(["a", "b", "c"]) == {"a": 10, "b": 5}
    assert here.history.asked == [["b", "c"]]
    assert await here.runs.of(["a"]) == {"a": 10}
    assert len(here.history.asked) == 1


async def test_a_leader_that_led_before_does_not_miss_what_others_ran_in_between() -> None:
    here = Here()
    here.leads = True
    here.ran_before.update(a=10, b=10)
    here.history.slots = {"a": 20}
    assert await here.runs.of(["a", "b"]) == {"a": 20, "b": 10}
    here.last_run.update(a=30)
    assert await here.runs.of(["a"]) == {"a": 30}


async def test_a_follower_takes_the_newer_of_the_history_and_its_own_past() -> None:
    here = Here()
    here.last_run.update(a=10, b=10)
    here.history.slots = {"a": 11, "b": 9, "c": 1}
    assert await here.runs.of(["a", "b", "c"]) == {"a": 11, "b": 10, "c": 1}


async def test_without_a_history_the_answer_is_what_is_known_here() -> None:
    here = Here()
    here.last_run.update(a=10)
    here.history.error = StorageUnavailableError("no such stream")
    for _ in range(2):
        assert await here.runs.of(["a", "b"]) == {"a": 10}
    assert len(here.history.asked) == 2


async def test_a_history_that_does_not_answer_is_left_alone_for_a_while() -> None:
    here = Here()
    here.history.error = StorageUncertainError("no answer")
    for _ in range(3):
        assert await here.runs.of(["a"]) == {}
    assert len(here.history.asked) == 1
    here.clock.at_s += 11
    here.history.error, here.history.slots = None, {"a": 1}
    assert await here.runs.of(["a"]) == {"a": 1}


async def test_the_memory_storage_leaves_skipped_slots_out() -> None:
    storage = MemoryStorage(MemoryCluster(SystemClock()))
    ran = Run(job="a", status=RunStatus.SENT, run_id="1", scheduled_at_ms=5)
    skipped = Run(job="a", status=RunStatus.SKIPPED, run_id="2", scheduled_at_ms=6)
    await storage.save_runs([ran, skipped, Run(job="b", status=RunStatus.SKIPPED, from_ms=1, to_ms=2, count=2)])
    assert await storage.last_runs(["a", "b", "c"]) == {"a": 5}
