"""What a scheduler makes of the jobs that were moved to its storage, on virtual time."""

import datetime as dt
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from natscron import CatchUp, CatchUpPolicy, JobEvent, JobStatus, Overlap, RunStatus, cron, every, once
from natscron.model import Mark
from natscron.storage.memory import MemoryStorage
from natscron.storage.migrate import MigrateResult, migrate_storage
from natscron.testing.scheduler import VirtualScheduler, run_virtual

MINUTE = dt.timedelta(minutes=1)
ALL = CatchUp(policy=CatchUpPolicy.ALL)


class Move:
    """A scheduler that runs, and one that is to go on in its place."""

    def __init__(self, old: VirtualScheduler) -> None:
        self.began = old.now
        self.ran: list[tuple[str, str, int]] = []
        self.events: list[JobEvent] = []
        self.old = old
        self.new = VirtualScheduler(self.handler("new"), loop=old.loop)
        old.set_handler(self.handler("old"))

    def handler(self, where: str) -> Callable[[JobEvent], Awaitable[None]]:
        async def handle(event: JobEvent) -> None:
            assert event.scheduled_at is not None
            self.ran.append((where, event.id, (event.scheduled_at - self.began) // MINUTE))
            self.events.append(event)

        return handle

    async def migrate(self, **options: Any) -> MigrateResult:  # noqa: ANN401 - any of its options
        return await migrate_storage(self.old.storage, self.new.storage, clock=self.old.clock, **options)

    async def go_on(self) -> None:
        """Stop the old one, move, start the new one."""
        await self.old.stop()
        await self.migrate()
        await self.new.start()

    def slots(self, where: str, job: str = "job") -> list[int]:
        """The minutes whose slots ran."""
        return [minute for place, name, minute in self.ran if (place, name) == (where, job)]

    async def told(self, job: str = "job") -> list[tuple[RunStatus, str | None]]:
        """What the new one's history says of slots that did not run."""
        runs = await self.new.list_runs(job, descending=False)
        return [(run.status, run.reason) for run in runs if run.status is RunStatus.SKIPPED]


def play(main: Callable[[Move], Awaitable[None]]) -> None:
    async def both(scheduler: VirtualScheduler) -> None:
        move = Move(scheduler)
        try:
            await main(move)
        finally:
            await move.new.stop()

    run_virtual(both)


def test_an_interval_goes_on_in_step_and_what_ran_does_not_run_again() -> None:
    async def main(move: Move) -> None:
        await move.old.add_job("job", every("7m"))
        await move.old.advance("60m")
        await move.go_on()
        await move.new.advance("60m")
        assert move.slots("old") == [7, 14, 21, 28, 35, 42, 49, 56]
        assert move.slots("new") == [63, 70, 77, 84, 91, 98, 105, 112, 119]
        assert await move.told() == []
        assert len(await move.new.list_runs("job")) == 17

    play(main)


@pytest.mark.parametrize(("policy", "caught_up"), [(CatchUp(), [77]), (ALL, [63, 70, 77])])
def test_what_was_due_in_between_follows_the_catch_up_policy(policy: CatchUp, caught_up: list[int]) -> None:
    async def main(move: Move) -> None:
        await move.old.add_job("job", every("7m"), catchup=policy, overlap="allow")
        await move.old.advance("60m")
        await move.old.stop()
        await move.new.advance("10m")
        await move.migrate()
        await move.new.advance("10m")
        await move.new.start()
        await move.new.advance("5m")
        assert move.slots("new") == [*caught_up, 84]
        skipped = [] if policy is ALL else [(RunStatus.SKIPPED, "catchup_latest")]
        assert await move.told() == skipped

    play(main)


def test_a_slot_due_while_the_jobs_were_moved_runs() -> None:
    async def main(move: Move) -> None:
        await move.old.add_job("job", cron("0 * * * *"))
        await move.old.advance("59m58s")
        await move.old.stop()
        await move.new.advance("1s")
        await move.migrate()
        await move.new.advance("3s")
        await move.new.start()
        await move.new.advance("1s")
        assert (move.slots("old"), move.slots("new")) == ([], [60])

    play(main)


def test_a_once_job_runs_once_wherever_its_instant_lies() -> None:
    async def main(move: Move) -> None:
        for name, minute in (("done", 5), ("between", 30), ("later", 100)):
            await move.old.add_job(name, once(move.began + minute * MINUTE))
        await move.old.advance("20m")
        await move.old.stop()
        await move.new.advance("20m")
        await move.migrate()
        await move.new.start()
        await move.new.advance("3h")
        assert sorted(move.ran) == [("new", "between", 30), ("new", "later", 100), ("old", "done", 5)]
        assert await move.told("done") == []

    play(main)


@pytest.mark.parametrize("again", ["5m", "0s"])
def test_a_start_is_not_repeated(again: str) -> None:
    async def main(move: Move) -> None:
        await move.old.add_job("job", msgspec.structs.replace(every("1h"), run_at_start=True))
        await move.old.advance(again)
        assert move.slots("old") == [0]
        await move.old.stop()
        # Not even without its record.
        await move.migrate(executions=False)
        await move.new.start()
        await move.new.advance("61m")
        assert move.slots("new") == [60]

    play(main)


def test_a_paused_job_stays_paused_and_makes_up_for_nothing_when_it_goes_on() -> None:
    async def main(move: Move) -> None:
        await move.old.add_job("job", every("7m"), note="why")
        await move.old.add_job("until", every("7m"))
        await move.old.pause("job")
        await move.old.pause("until", until=move.began + 80 * MINUTE)
        await move.old.advance("30m")
        await move.go_on()
        await move.new.advance("30m")
        job = await move.new.get_job("job")
        assert (job.status, job.note, move.ran) == (JobStatus.DISABLED, "why", [])
        await move.new.resume("job")
        await move.new.advance("25m")
        assert (move.slots("new"), move.slots("new", "until")) == ([63, 70, 77, 84], [84])
        assert await move.told() == [(RunStatus.SKIPPED, "paused")]
        [pause] = [run for run in await move.new.list_runs("job") if run.status is RunStatus.SKIPPED]
        assert pause.count == 8

    play(main)


def test_a_scheduler_that_runs_takes_the_jobs_over_at_once() -> None:
    async def main(move: Move) -> None:
        await move.new.start()
        await move.new.add_job("own", every("9m"))
        await move.old.add_job("job", every("7m"), catchup=ALL, overlap="allow")
        await move.old.add_job("done", once(move.began + 5 * MINUTE))
        await move.old.advance("60m")
        await move.old.stop()
        await move.new.advance("10m")
        await move.migrate()
        await move.new.advance("10m")
        assert move.slots("old") == [7, 14, 21, 28, 35, 42, 49, 56]
        # Those that are overdue come together, in any order.
        assert sorted(move.slots("new")) == [63, 70, 77]
        assert move.slots("new", "own") == [9, 18, 27, 36, 45, 54, 63, 72]
        assert move.slots("new", "done") == []
        assert await move.told("done") == []

    play(main)


def test_a_run_that_is_recorded_does_not_run_again_though_the_mark_is_behind_it() -> None:
    async def main(move: Move) -> None:
        await move.old.add_job("job", every("7m"), catchup=ALL, overlap="allow")
        await move.old.advance("60m")
        await move.old.stop()
        # The process was killed before it could write how far it had come.
        record = move.old.storage.cluster.lease
        assert record is not None
        behind = Mark(instant_ms=record.lease.mark.instant_ms - 1_200_000, jobs_seq=record.lease.mark.jobs_seq)
        move.old.storage.cluster.lease = msgspec.structs.replace(
            record, lease=msgspec.structs.replace(record.lease, mark=behind)
        )
        await move.migrate()
        await move.new.start()
        await move.new.advance("10m")
        assert move.slots("new") == [63, 70]

    play(main)


def test_moving_while_the_old_one_runs_and_once_more_after_its_stop_loses_and_doubles_nothing() -> None:
    async def main(move: Move) -> None:
        await move.old.add_job("job", every("7m"), catchup=ALL, overlap="allow")
        await move.old.advance("30m")
        first = await move.migrate()
        assert (first.jobs_migrated, first.executions_migrated) == (1, 4)
        assert "in use" in first.warnings[0]
        await move.old.advance("30m")
        await move.old.stop()
        assert await move.migrate() == MigrateResult(0, 1, 4, 4)
        await move.new.start()
        await move.new.advance("20m")
        assert move.slots("old") + move.slots("new") == [7, 14, 21, 28, 35, 42, 49, 56, 63, 70, 77]

    play(main)


def test_a_triggers_key_goes_on_meaning_the_same_run() -> None:
    async def main(move: Move) -> None:
        await move.old.add_job("job", cron("0 0 1 1 *"))
        run_id = await move.old.trigger("job", key="order-7")
        await move.old.advance("1m")
        await move.go_on()
        assert await move.new.trigger("job", key="order-7") == run_id
        await move.new.advance("1m")
        assert len(move.ran) == 1
        assert (await move.new.get_run(run_id)).status is RunStatus.COMPLETED

    play(main)


def test_handlers_are_told_of_the_run_before_the_move() -> None:
    async def main(move: Move) -> None:
        await move.old.add_job("job", every("7m"), metadata={"team": "a"}, payload={"n": 1}, overlap="buffer_one")
        await move.old.advance("10m")
        await move.go_on()
        await move.new.advance("5m")
        event = move.events[-1]
        assert (event.metadata, event.payload) == ({"team": "a"}, {"n": 1})
        assert event.last_completed_at == move.began + 7 * MINUTE
        job = await move.new.get_job("job")
        assert (job.created_at, job.overlap) == (move.began, Overlap.BUFFER_ONE)

    play(main)


def test_an_edit_after_the_move_is_planned_like_any_other() -> None:
    async def main(move: Move) -> None:
        await move.old.add_job("job", every("7m"))
        await move.old.advance("10m")
        await move.go_on()
        await move.new.advance("10m")
        await move.new.update_job_schedule("job", every("30m"))
        await move.new.remove_job("job")
        await move.new.add_job("job", every("10m"))
        await move.new.advance("21m")
        assert move.slots("new") == [14, 30, 40]

    play(main)


def test_a_store_that_nobody_led_gives_jobs_that_run() -> None:
    async def main(move: Move) -> None:
        await move.new.advance("5m")
        source = MemoryStorage(move.old.storage.cluster)
        assert source.cluster.lease is not None
        source.cluster.lease = None
        await move.old.add_job("job", every("7m"))
        await move.go_on()
        await move.new.advance("20m")
        assert [minute - 5 for minute in move.slots("new")] == [7, 14]

    play(main)
