"""What the leader makes of a timer that fired while it is still at what was due before."""

import msgspec
import pytest
from tests.unit.planning import SECONDS, Jobs, started

from natscron.clock import SystemClock
from natscron.engine.storetime import StoreClock
from natscron.engine.table import JobTable
from natscron.engine.timed import Timed
from natscron.model import CatchUp, CatchUpPolicy
from natscron.storage.timers import Firing

NOW = 60_000
SERVER = msgspec.structs.replace(SECONDS, timer="server")


@pytest.mark.parametrize("policy", CatchUpPolicy)
def test_a_firing_runs_nothing_that_is_for_the_catch_up_to_decide(policy: CatchUpPolicy) -> None:
    jobs, table = Jobs(), JobTable(1)
    for name in ("a", "b"):
        table.put(jobs.create(SERVER, name, CatchUp(policy=policy, limit=3, grace_ms=10_000)).job)
    planner = started(table.entries())
    timed = Timed(
        None, planner, table, lambda job, slot: f"{job.id} {slot}", StoreClock(SystemClock(), 0), lambda: None
    )
    windows = [planner.take(NOW, 2, limit=1)]
    for n, entry in enumerate(table.entries(), 1):
        timed.fired(Firing(entry.job.id, entry.counts_from.seq, n, next_ms=NOW + 1_000))
    found = timed.take(NOW)
    assert [(due.cursor.entry.job.id, due.slot_ms) for due in found] == [
        (name, slot) for name in ("a", "b") for slot in (58_000, 59_000, 60_000)
    ]
    while windows[-1].more:
        windows.append(planner.take(NOW, 2, limit=1))
    assert len(windows) > 2
    left = [missed for window in windows for missed in window.missed]
    ran = [due for window in windows for due in window.due]
    assert {missed.entry.job.id for missed in left} == {"a", "b"}
    for due in [*found, *ran]:
        mine = [missed.skipped for missed in left if missed.entry.job.id == due.cursor.entry.job.id]
        assert not any(one.from_ms <= due.slot_ms <= one.to_ms for one in mine)
    slots = [(due.cursor.entry.job.id, due.slot_ms) for due in [*ran, *found]]
    assert len(set(slots)) == len(slots)
