"""What the parts beside the leader must bear: streams made anew, notes whose epoch went back, records refused."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import msgspec
import pytest
from tests.unit.test_flights import NOW, Air

from natscron.engine.candidate import Observed
from natscron.engine.flights import ACK_WAIT_MS, Flight
from natscron.engine.history import HistoryWriter
from natscron.engine.table import JobTable
from natscron.errors import LimitExceededError
from natscron.ids import is_ulid, ulid
from natscron.model import Delivery, Holder, Job, Lease, LeaseRecord, Mark, NoteRef, OpenState, Run, RunStatus
from natscron.storage.nats import link as module
from natscron.storage.nats.link import NatsLeaderLink
from natscron.storage.nats.options import NatsStorageOptions
from natscron.testing import virtual

if TYPE_CHECKING:
    from natscron.storage.protocol import ExecutionStore


def table_of(*jobs: Job) -> JobTable:
    table = JobTable(10_000_000)
    replay(table, *jobs)
    return table


def replay(table: JobTable, *jobs: Job) -> None:
    """What a watch that begins again says."""
    table.reset()
    for one in jobs:
        table.put(one)
    table.complete(max((one.revision for one in jobs), default=0))


def test_a_table_takes_the_rows_of_a_stream_made_anew_and_its_sequence_goes_back() -> None:
    table = table_of(Job(id="a", revision=7, updated_at_ms=70), Job(id="b", revision=8, updated_at_ms=80))
    replay(table, Job(id="a", revision=1, updated_at_ms=90, note="new"))
    entry = table.get("a")
    assert entry is not None
    assert (entry.job.note, table.seq, len(table)) == ("new", 1, 1)


def test_a_row_of_a_stream_made_anew_is_told_from_the_old_one_of_the_same_sequence() -> None:
    table = table_of(Job(id="a", revision=1, updated_at_ms=70, note="old"))
    replay(table, Job(id="a", revision=1, updated_at_ms=90, note="new"))
    entry = table.get("a")
    assert entry is not None
    assert entry.job.note == "new"


def test_notes_are_removed_by_their_sequence_also_when_the_epoch_went_back(monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[int] = []

    async def purge(*_: object, below_seq: int) -> None:
        removed.append(below_seq)

    monkeypatch.setattr(module, "purge", purge)
    connection = cast("Any", SimpleNamespace(broken=asyncio.Event()))
    link = NatsLeaderLink(connection, NatsStorageOptions())
    link._written.extend([(NoteRef(37, 1), 10), (NoteRef(37, 2), 11), (NoteRef(1, 1), 20), (NoteRef(1, 2), 21)])
    virtual.run(link.purge_notes(NoteRef(1, 1)))
    assert removed == [21]
    assert list(link._written) == [(NoteRef(1, 2), 21)]


def test_records_that_the_store_refuses_do_not_keep_those_behind_them() -> None:
    class Store:
        def __init__(self) -> None:
            self.saved: list[Run] = []

        async def save_runs(self, runs: Sequence[Run]) -> None:
            if any(run.run_id == "bad" for run in runs):
                raise LimitExceededError("a record is over the maximum payload")
            self.saved.extend(runs)

    async def story() -> None:
        store = Store()
        writer = HistoryWriter(cast("ExecutionStore", store))
        writer.start()
        for run_id in ("bad", "good"):
            writer.record(Run(job="a", status=RunStatus.SENT, run_id=run_id, finished_at_ms=5))
            assert await writer.flush(60)
        assert writer.dropped == 1
        assert [(run.run_id, run.reason, run.count) for run in store.saved] == [
            ("good", None, None),
            (None, "history_dropped", 1),
        ]
        await writer.stop(1)

    virtual.run(story())


def test_an_inherited_stream_run_past_its_deadline_waits_for_its_acknowledgement() -> None:
    air = Air()
    flight: Flight = air.inherited(OpenState.RETRY, NOW, Delivery.JETSTREAM)
    flight.deadline_ms = NOW - 30_000
    assert air.all.expire(NOW, 10).again == [flight]
    air.all.sent(flight, NOW)
    assert air.all.next_ms() == NOW + ACK_WAIT_MS
    assert air.all.expire(NOW + ACK_WAIT_MS - 1, 10) == ([], [])
    assert air.records == []


def test_a_leader_whose_lease_ran_out_is_not_named_any_more() -> None:
    observed = Observed()
    lease = Lease(
        epoch=1, mark=Mark(instant_ms=0, jobs_seq=0, note=NoteRef()), holder=Holder("gone", "x"), duration_ms=2_000
    )
    observed.saw(LeaseRecord(lease, 1, 0), 100.0)
    assert observed.leader(100.5, 2_000) == "gone"
    assert observed.leader(200.0, 2_000) is None
    observed.saw(LeaseRecord(msgspec.structs.replace(lease, holder=None), 2, 0), 200.0)
    assert observed.leader(200.0, 2_000) is None


@pytest.mark.parametrize("text", ["", "garbage", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "\u00e4" * 26, "U" * 26])
def test_what_is_no_ulid_is_told_without_raising(text: str) -> None:
    assert not is_ulid(text)
    assert is_ulid(ulid(1_800_000_000_000))
