"""The hot table: complete up to the sequence it names, whatever the watch goes through."""

import asyncio

import msgspec
from tests.unit.planning import SECONDS

from natscron.engine.table import Entry, JobTable, compile_entry
from natscron.model import Job, ScheduleSpec
from natscron.testing.virtual import run


def job(job_id: str, revision: int, schedule: ScheduleSpec | None = SECONDS) -> Job:
    return Job(id=job_id, schedule=schedule, revision=revision, generation=1)


class Heard:
    """A loaded table, and what it told its listeners."""

    def __init__(self, *jobs: Job) -> None:
        self.told: list[tuple[str, int | None]] = []
        self.table = JobTable(10_000_000)
        self.table.listen(self._hear)
        self.table.reset()
        for one in jobs:
            self.table.put(one)
        self.table.complete(max((one.revision for one in jobs), default=0))

    def _hear(self, job_id: str, entry: Entry | None) -> None:
        assert self.table.get(job_id) is entry
        self.told.append((job_id, None if entry is None else entry.job.revision))

    def heard(self) -> list[tuple[str, int | None]]:
        told, self.told = self.told, []
        return told


def test_the_first_load_tells_of_every_job_and_says_how_far_it_goes() -> None:
    heard = Heard(job("a", 3), job("b", 5))
    assert heard.heard() == [("a", 3), ("b", 5)]
    assert (heard.table.seq, len(heard.table)) == (5, 2)


def test_live_changes_keep_the_sequence_with_what_the_table_holds() -> None:
    heard = Heard(job("a", 3))
    heard.heard()
    heard.table.put(job("b", 6))
    assert heard.table.seq == 6
    heard.table.delete("a", 7)
    heard.table.complete(7)
    assert heard.table.seq == 7
    assert heard.heard() == [("b", 6), ("a", None)]
    heard.table.delete("unknown", 8)
    assert (heard.heard(), heard.table.seq) == ([], 8)


def test_jobs_are_listed_by_their_last_write() -> None:
    heard = Heard(job("a", 3), job("b", 5))
    heard.table.put(job("a", 6))
    assert [entry.job.id for entry in heard.table.entries()] == ["b", "a"]


def test_a_row_older_than_the_known_one_changes_nothing() -> None:
    heard = Heard(job("a", 5))
    heard.heard()
    heard.table.put(job("a", 4))
    entry = heard.table.get("a")
    assert entry is not None
    assert (entry.job.revision, heard.heard()) == (5, [])


def test_a_replay_is_taken_over_at_once_and_only_what_changed_is_told() -> None:
    heard = Heard(job("same", 1), job("edited", 2), job("gone", 3))
    heard.heard()
    heard.table.reset()
    heard.table.put(job("same", 1))
    heard.table.put(job("edited", 7))
    heard.table.put(job("new", 8))
    # A decision made now must not see half of it.
    assert (heard.heard(), heard.table.seq) == ([], 3)
    heard.table.complete(8)
    assert sorted(heard.heard()) == [("edited", 7), ("gone", None), ("new", 8)]
    assert heard.table.seq == 8


def test_a_deletion_in_a_replay_takes_back_the_row_before_it() -> None:
    heard = Heard(job("a", 1))
    heard.heard()
    heard.table.reset()
    heard.table.put(job("a", 1))
    heard.table.put(job("b", 2))
    heard.table.delete("a", 3)
    heard.table.delete("b", 4)
    heard.table.complete(4)
    assert (heard.heard(), len(heard.table)) == ([("a", None)], 0)


def test_a_replay_that_begins_again_forgets_what_the_one_before_had() -> None:
    heard = Heard(job("a", 1))
    heard.heard()
    heard.table.reset()
    heard.table.put(job("b", 2))
    heard.table.reset()
    heard.table.put(job("a", 1))
    heard.table.complete(3)
    assert (heard.heard(), len(heard.table)) == ([], 1)


def test_one_bad_row_stops_no_other() -> None:
    heard = Heard(
        job("no schedule", 1, None),
        job("bad zone", 2, ScheduleSpec(cron="* * * * *", tz="Nowhere/Land")),
        job("bad cron", 3, ScheduleSpec(cron="61 * * * *")),
        msgspec.structs.replace(job("bad row", 4), invalid="unreadable"),
        job("good", 5),
    )
    found = {entry.job.id: (entry.job.invalid is None, entry.schedule is None) for entry in heard.table.entries()}
    assert found.pop("good") == (True, False)
    assert set(found.values()) == {(False, True)}
    assert len(found) == 4


def test_a_job_that_the_target_does_not_admit_is_invalid() -> None:
    entry = compile_entry(job("a", 1), 1, lambda _job: "reserved")
    assert (entry.job.invalid, entry.schedule) == ("reserved", None)


def test_who_waits_for_a_sequence_is_woken_by_it() -> None:
    async def main() -> None:
        heard = Heard(job("a", 3))
        assert await heard.table.wait_for(3, 0)
        waiting = asyncio.create_task(heard.table.wait_for(5, 10))
        await asyncio.sleep(1)
        heard.table.put(job("b", 4))
        heard.table.complete(4)
        await asyncio.sleep(1)
        assert not waiting.done()
        heard.table.put(job("c", 5))
        heard.table.complete(5)
        assert await waiting
        assert not await heard.table.wait_for(6, 10)
        assert heard.table._waiters == []

    run(main())
