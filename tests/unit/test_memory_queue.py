"""What the memory queue must do beyond what every run queue does: it keeps nothing that nobody needs."""

import pytest

from natscron.clock import SystemClock
from natscron.model import Overlap, QueuedRun, Reason
from natscron.storage.memory import MemoryCluster, MemoryStorage
from natscron.storage.memory.queue import MemoryQueue
from natscron.testing.conformance.driving import Sink, ending_of

pytestmark = pytest.mark.anyio


def _run(run_id: str, due_ms: int = 1, **fields: object) -> QueuedRun:
    given = {"job": "a", "generation": 1, "scheduled_at_ms": due_ms, "due_ms": due_ms, "overlap": Overlap.ALLOW}
    return QueuedRun(run_id=run_id, **{**given, **fields})  # type: ignore[arg-type]


@pytest.fixture
def queue() -> MemoryQueue:
    return MemoryCluster(SystemClock()).queue


def _kept(queue: MemoryQueue) -> int:
    """Entries in all lines, with those of tries that are over."""
    return sum(len(line._due) + len(line._later) for line in queue._lines.values())


@pytest.mark.parametrize("due_ms", [1, 4_000_000_000_000])
def test_runs_replaced_before_anybody_claims_them_do_not_pile_up(queue: MemoryQueue, due_ms: int) -> None:
    for n in range(1_000):
        assert queue.enter(_run(f"r{n}", due_ms, overlap=Overlap.CANCEL_OTHER)) is None
    assert _kept(queue) <= 100


def test_removed_runs_give_no_instant_to_wait_for(queue: MemoryQueue) -> None:
    queue.enter(_run("r1", 4_000_000_000_000))
    assert queue.claim("w", [""], 1).next_ms == 4_000_000_000_000
    queue.drop_runs("a", 1)
    assert queue.claim("w", [""], 1).next_ms is None
    assert _kept(queue) == 0


def test_an_empty_queue_keeps_nothing_of_workers_handlers_and_jobs(queue: MemoryQueue) -> None:
    for n in range(20):
        queue.enter(_run(f"r{n}", handler=f"h{n}", job=f"j{n}", concurrency=1))
        queue.enter(_run(f"s{n}", handler=f"h{n}", job=f"j{n}", concurrency=1))
        for _ in range(2):
            [claim] = queue.claim(f"w{n}", [f"h{n}"], 5).runs
            assert queue.finish(f"w{n}", [ending_of(claim)]) == [True]
        assert queue.claim(f"w{n}", [f"h{n}"], 5).runs == ()
    assert (queue._lines, queue._owned, queue._tries, queue._going, queue._held) == ({}, {}, {}, {}, {})


def test_a_given_back_run_that_was_replaced_says_so() -> None:
    cluster = MemoryCluster(SystemClock())
    cluster.queue.enter(_run("r1", overlap=Overlap.CANCEL_OTHER))
    claims = cluster.queue.claim("w", [""], 1).runs
    cluster.queue.enter(_run("r2", overlap=Overlap.CANCEL_OTHER))
    cluster.queue.give_back("w", claims)
    [record] = cluster.runs["a"]
    assert (record.reason, record.instance, record.started_at_ms) == (Reason.REPLACED, "", None)
    assert record.error


async def test_a_watch_that_fell_silent_is_woken_again_once_it_is_renewed() -> None:
    storage, sink = MemoryStorage(), Sink()
    watch = storage.watch_queue(sink)
    await watch.ready()
    [inner] = storage.watches
    inner.deaf = True
    storage.cluster.queue.wake()
    inner.renew()
    await sink.until(lambda: sink.wakes == 2)
    storage.cluster.queue.wake()
    await sink.until(lambda: sink.wakes == 3)
    await storage.close()
