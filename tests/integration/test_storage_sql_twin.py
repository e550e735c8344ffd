"""The SQL run queue does what the memory run queue does, whatever is asked of both in whatever order."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from natscron.model import Claim, Overlap, QueuedRun, RunStatus, Trigger
from natscron.storage.memory import MemoryStorage
from natscron.storage.protocol import RunQuery
from natscron.storage.queue import QueueStorage  # noqa: TC001 - one import block reads better than two
from natscron.storage.sql import SQLStorage
from natscron.testing.conformance.driving import Driver, ending_of, worker_info

pytestmark = pytest.mark.anyio

JOBS = ("a", "b")
STEPS = 60


class Twins:
    """Two stores that are asked the same."""

    def __init__(self, drivers: Sequence[Driver], seed: int) -> None:
        self.drivers = drivers
        self.draw = random.Random(seed)  # noqa: S311 - the same each time
        self.queued: list[str] = []
        self.claims: dict[tuple[str, int], list[Claim]] = {}
        self.story: list[str] = []

    async def step(self) -> None:
        name = self.draw.choice(("queue", "queue", "queue", "claim", "claim", "finish", "finish", "back", "more"))
        await getattr(self, name)()
        one, two = await self._seen(0), await self._seen(1)
        different = {
            key: (one.get(key), two.get(key)) for key in one.keys() | two.keys() if one.get(key) != two.get(key)
        }
        assert not different, "\n".join((*self.story, f"differ: {different}"))

    async def queue(self) -> None:
        fields: list[dict[str, Any]] = []
        for _ in range(self.draw.randint(1, 4)):
            run_id = f"r{len(self.queued):03}"
            if self.queued and self.draw.random() < 0.1:
                run_id = self.draw.choice(self.queued)
            else:
                self.queued.append(run_id)
            fields.append(
                {
                    "run_id": run_id,
                    "job": self.draw.choice(JOBS),
                    "due": len(self.queued) - 10_000,
                    "overlap": self.draw.choice(list(Overlap)),
                    "concurrency": self.draw.choice((0, 0, 0, 2)),
                    "trigger": self.draw.choice((Trigger.SCHEDULE, Trigger.SCHEDULE, Trigger.BACKFILL)),
                    "generation": self.draw.choice((1, 1, 1, 2)),
                }
            )
        self.story.append(f"queue {fields}")
        for driver in self.drivers:
            await driver.queue(*(_run(driver, one) for one in fields))

    async def claim(self) -> None:
        limit = self.draw.choice((1, 2, 50))
        found = [(await driver.claim(limit=limit)).runs for driver in self.drivers]
        keys = [[(claim.run_id, claim.attempt) for claim in claims] for claims in found]
        self.story.append(f"claim {keys[0]}")
        assert keys[0] == keys[1], "\n".join(self.story)
        for pair in zip(*found, strict=True):
            self.claims[pair[0].run_id, pair[0].attempt] = list(pair)

    async def finish(self) -> None:
        keys = self._some()
        status = self.draw.choice((RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.DEAD))
        wait_ms = 0 if status is RunStatus.FAILED and self.draw.random() < 0.5 else None
        self.story.append(f"finish {keys} {status.value} {wait_ms}")
        stored = []
        for number, driver in enumerate(self.drivers):
            endings = [ending_of(self.claims[key][number], status, retry_in_ms=wait_ms) for key in keys]
            stored.append(list(await driver.storage.finish("w", endings)))
        assert stored[0] == stored[1], "\n".join(self.story)
        self._forget(keys)

    async def back(self) -> None:
        keys = self._some()
        self.story.append(f"give back {keys}")
        for number, driver in enumerate(self.drivers):
            await driver.storage.give_back("w", [self.claims[key][number] for key in keys])
        self._forget(keys)

    async def more(self) -> None:
        """Removal, redriving, a look at who can execute it."""
        what = self.draw.randint(0, 2)
        job, run_id = self.draw.choice(JOBS), self.draw.choice([*self.queued, "unknown"])
        self.story.append(f"more {what} {job} {run_id}")
        found: list[Any] = []
        for driver in self.drivers:
            storage = driver.storage
            if what == 0:
                found.append(await storage.drop_runs(job, 1))
            elif what == 1:
                found.append(await storage.redrive(run_id))
            else:
                found.append(await storage.mark_unhandled())
        assert found[0] == found[1], "\n".join(self.story)

    def _some(self) -> list[tuple[str, int]]:
        keys = sorted(self.claims)
        return self.draw.sample(keys, self.draw.randint(0, len(keys)))

    def _forget(self, keys: Sequence[tuple[str, int]]) -> None:
        # Now and then one is kept, and ended or given back once more.
        for key in keys:
            if self.draw.random() < 0.8:
                del self.claims[key]

    async def _seen(self, number: int) -> dict[Any, Any]:
        """Records, what jobs are doing, and what the worker owns."""
        storage = self.drivers[number].storage
        runs = await storage.list_runs(RunQuery(limit=10_000))
        seen: dict[Any, Any] = {
            (run.run_id, run.attempt): (run.status, run.reason, run.started_at_ms is None) for run in runs
        }
        assert len(seen) == len(runs)
        seen |= {job: (one.running, one.waiting) for job, one in (await storage.activity(JOBS)).items()}
        return seen | {("owned", *key): why for key, why in (await self.drivers[number].owned()).items()}


def _run(driver: Driver, fields: dict[str, Any]) -> QueuedRun:
    given = dict(fields)
    return driver.run(given.pop("run_id"), due=given.pop("due"), **given)


@pytest.mark.parametrize("seed", range(12))
async def test_both_queues_tell_the_same_story(sqlite_url: str, seed: int) -> None:
    stores: list[QueueStorage] = [MemoryStorage(), SQLStorage(sqlite_url)]
    stores[0].cluster._runs_per_job = 10_000  # type: ignore[attr-defined]
    try:
        for storage in stores:
            await storage.initialize()
            await storage.beat(worker_info())
        twins = Twins([await Driver.begin(storage) for storage in stores], seed)
        for _ in range(STEPS):
            await twins.step()
        assert len(twins.queued) > 20
    finally:
        for storage in stores:
            await storage.close()
