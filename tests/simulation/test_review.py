"""What once stopped a leader, or made it run slots again: lost answers, foreign records, stores made anew."""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from tests.simulation.test_traps import SECONDS, records, slots, start, told
from tests.simulation.world import World, job

from natscron.codec.times import ms_to_text
from natscron.engine.engine import Engine
from natscron.engine.planner import Planner
from natscron.errors import ConfigError, MalformedInputError, ValidationError
from natscron.model import (
    Delivery,
    Job,
    Lease,
    Mark,
    Node,
    NoteRef,
    OpenRow,
    OpenState,
    Overlap,
    Retry,
    Run,
    RunStatus,
    ScheduleSpec,
)
from natscron.storage.protocol import LeaderLink, OnReply, Outgoing, Reply, RunQuery, Staged
from natscron.testing.faults import FaultyLink, FaultyStorage

HOURLY = ScheduleSpec(every="1h")
THREE_YEARS_MS = 3 * 365 * 86_400_000


class _Ear(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.getMessage()}: {getattr(record, 'reason', '')}")


@contextmanager
def heard() -> Iterator[list[str]]:
    """What the leader's log says meanwhile."""
    ear, log = _Ear(), logging.getLogger("natscron.leader")
    log.addHandler(ear)
    try:
        yield ear.said
    finally:
        log.removeHandler(ear)


def engine_of(world: World) -> Engine:
    engine = world.instances[0].engine
    assert engine is not None
    return engine


def storage_of(world: World) -> FaultyStorage:
    storage = world.instances[0].storage
    assert storage is not None
    return storage


def link_of(world: World) -> FaultyLink:
    return storage_of(world).faulty_links[-1]


def lease_of(world: World) -> Lease:
    assert world.cluster.lease is not None
    return world.cluster.lease.lease


def lag_ms(world: World) -> int:
    """How far the mark in the store is behind now."""
    return world.clock.now_ms() - lease_of(world).mark.instant_ms


# Answers that never come.


@told
async def test_a_note_whose_answer_is_lost_ends_the_term_and_not_the_progress_of_the_mark(world: World) -> None:
    await start(world, 1)
    await world.create(job("a", SECONDS))
    await asyncio.sleep(3.5)
    link = link_of(world)
    kept: list[NoteRef] = []
    commit = link.commit

    def unanswered(
        note: NoteRef, staged: Sequence[Staged], run_ids: Sequence[str], rows: Sequence[OpenRow] = ()
    ) -> "asyncio.Future[None]":
        answer = commit(note, staged, run_ids, rows)
        if not run_ids or kept:
            return answer
        kept.append(note)
        return asyncio.get_running_loop().create_future()

    link.commit = unanswered  # type: ignore[method-assign]
    with heard() as said:
        await asyncio.sleep(20)
    assert kept
    assert f"leadership lost: note {kept[0].n} got no answer within the lease" in said
    assert lag_ms(world) < 3_000
    assert lease_of(world).epoch == 2
    assert slots(world) == list(range(1, 24))


@told
async def test_open_rows_that_cannot_be_laid_down_in_time_end_the_term_alone(world: World) -> None:
    world.silent_workers = True
    await start(world, 1)
    await world.create(job("asked", SECONDS, Delivery.REQUEST))
    await world.create(job("a", SECONDS))
    await asyncio.sleep(3.5)

    async def unanswered(rows: Sequence[OpenRow]) -> None:
        del rows
        await asyncio.sleep(60)

    link_of(world).save_rows = unanswered  # type: ignore[method-assign]
    with heard() as said:
        await asyncio.sleep(10)
    assert "leadership lost: open rows could not be laid down before trust ended" in said
    assert engine_of(world).failed is None
    assert engine_of(world).is_leader
    assert slots(world) == list(range(1, 14))


@told
async def test_one_lost_answer_to_a_renewal_does_not_end_the_term(world: World) -> None:
    await start(world, 1)
    await world.create(job("a", SECONDS))
    await asyncio.sleep(3.5)
    link = link_of(world)
    lost: list[int] = []
    write = link.write_lease

    async def unanswered(lease: Lease, expected_revision: int) -> int:
        revision = await write(lease, expected_revision)
        if not lost:
            lost.append(revision)
            await asyncio.sleep(1_000)
        return revision

    link.write_lease = unanswered  # type: ignore[method-assign]
    await asyncio.sleep(10)
    assert lost
    assert lease_of(world).epoch == 1
    assert not link.broken.is_set()
    assert lag_ms(world) < 3_000


@told
async def test_a_stream_is_given_time_to_acknowledge_an_inherited_run_past_its_deadline(world: World) -> None:
    loop, now = asyncio.get_running_loop(), world.clock.now_ms()

    def slowly(message: Outgoing) -> Reply | None:
        if message.token:
            reply = Reply(message.token, "", {}, b"")
            loop.call_later(0.02, lambda: link_of(world)._on_reply(reply))
        return None

    world.cluster.on_message = slowly
    await world.create(job("a", HOURLY, Delivery.JETSTREAM))
    generation = world.cluster.jobs_seq
    world.cluster.put_lease(Lease(epoch=3, mark=Mark(instant_ms=now, jobs_seq=1, note=NoteRef())))
    world.cluster.put_open(
        OpenRow(
            run_id="01KEZG8M00ABCDEFGHJKMNPQRS",
            job_id="a",
            generation=generation,
            scheduled_at_ms=now - 60_000,
            state=OpenState.RUNNING,
            delivery=Delivery.JETSTREAM,
            deadline_ms=now - 30_000,
            epoch=2,
        )
    )
    await start(world, 1)
    await asyncio.sleep(8)
    assert await records(world) == [("stored", None)]
    assert world.cluster.rows == {}


# What one bad thing may not end.


@told
async def test_an_instance_taken_back_while_another_was_ends_nothing(world: World) -> None:
    await start(world, 1)
    storage = storage_of(world)
    dead = [Node(instance=f"dead{n}", nonce="x", version="", started_at_ms=0) for n in range(2)]
    for node in dead:
        world.cluster.put_node(node)
    retract, retracted = storage.retract, []

    async def with_company(node: Node) -> None:
        await retract(node)
        retracted.append(node.instance)
        # Another instance takes back the other one at this moment.
        world.cluster.delete_node(dead[1])
        await asyncio.sleep(0.01)

    storage.retract = with_company  # type: ignore[method-assign]
    await asyncio.sleep(90)
    assert retracted == ["dead0"]
    assert engine_of(world).failed is None


@pytest.mark.parametrize("error", [ConfigError("cannot connect"), ValueError("a defect"), TimeoutError()])
def test_whatever_opening_the_link_raises_the_next_try_leads(error: Exception) -> None:
    @told
    async def story(world: World) -> None:
        await start(world, 1)
        await world.create(job("a", SECONDS))
        await asyncio.sleep(3.5)
        await once_failing(world, error)
        await asyncio.sleep(5)
        assert engine_of(world).failed is None
        assert slots(world) == list(range(1, 9))

    story()


async def once_failing(world: World, error: Exception) -> None:
    """The leader loses its link and the first try at another one fails."""
    storage = storage_of(world)
    opened = storage.open_link

    async def refused(on_reply: OnReply) -> LeaderLink:
        del on_reply
        storage.open_link = opened  # type: ignore[method-assign]
        raise error

    storage.open_link = refused  # type: ignore[method-assign]
    link_of(world).abort()


@told
async def test_a_stored_state_that_nobody_can_read_blocks_and_says_so(world: World) -> None:
    await start(world, 1)
    await asyncio.sleep(1)
    await once_failing(world, MalformedInputError("the lease is no JSON"))
    await asyncio.sleep(0.5)
    assert engine_of(world).status().blocked == "the stored state cannot be used: the lease is no JSON"
    await asyncio.sleep(8)
    assert engine_of(world).is_leader
    assert engine_of(world).status().blocked is None


@told
async def test_a_note_with_a_text_that_is_no_run_id_does_not_keep_anybody_from_leading(world: World) -> None:
    await world.create(job("a", SECONDS))
    world.cluster.put_lease(Lease(epoch=3, mark=Mark(instant_ms=world.clock.now_ms(), jobs_seq=1, note=NoteRef())))
    world.cluster.put_note(NoteRef(3, 1), ["garbage", "\u00e4" * 26])
    await start(world, 1)
    await asyncio.sleep(5.5)
    assert engine_of(world).is_leader
    assert slots(world) == [1, 2, 3, 4, 5]


@told
async def test_a_history_that_cannot_be_asked_leaves_no_inherited_run_open_for_ever(world: World) -> None:
    world.silent_workers = True
    asked = Job(
        id="a",
        schedule=ScheduleSpec(every="10s"),
        delivery=Delivery.REQUEST,
        overlap=Overlap.SKIP,
        timeout_ms=2_000,
    )
    await world.create(asked)
    await start(world, 1)
    await asyncio.sleep(10.5)

    async def refused(query: RunQuery) -> Sequence[Run]:
        raise ValidationError(f"cannot ask for {query.job}")

    storage_of(world).list_runs = refused  # type: ignore[method-assign]
    link_of(world).abort()
    await asyncio.sleep(300)
    assert slots(world) == [(1 + 10_000 * n) / 1000 for n in range(1, 32)]


@told
async def test_a_leader_before_us_is_given_time_to_record_the_end_of_what_it_sent(world: World) -> None:
    world.silent_workers = True
    await world.create(job("a", HOURLY, Delivery.REQUEST))
    generation, now = world.cluster.jobs_seq, world.clock.now_ms()
    world.cluster.put_lease(Lease(epoch=3, mark=Mark(instant_ms=now, jobs_seq=1, note=NoteRef())))
    row = OpenRow(
        run_id="01KEZG8M00ABCDEFGHJKMNPQRS",
        job_id="a",
        generation=generation,
        scheduled_at_ms=now - 3_000,
        state=OpenState.RUNNING,
        delivery=Delivery.REQUEST,
        deadline_ms=now + 2_000,
        epoch=3,
    )
    world.cluster.put_open(row)
    await start(world, 1)
    await asyncio.sleep(3)
    # Its end, within the time, reached the history only now.
    world.cluster.put_run(Run(job="a", status=RunStatus.COMPLETED, run_id=row.run_id, finished_at_ms=now + 1_900))
    await asyncio.sleep(10)
    assert await records(world) == [("completed", None)]
    assert world.arrivals == []
    assert world.cluster.rows == {}


# Records and streams that are gone.


@told
async def test_a_deleted_lease_record_runs_nothing_again(world: World) -> None:
    await start(world, 1)
    await world.create(job("a", ScheduleSpec(cron="* * * * *")))
    await asyncio.sleep(3_610)
    before, epoch = lease_of(world), lease_of(world).epoch
    world.cluster.lease = None
    await asyncio.sleep(300)
    assert lease_of(world).epoch == epoch + 1
    assert lease_of(world).mark.instant_ms > before.mark.instant_ms
    assert max(Counter(arrival.run_id for arrival in world.arrivals).values()) == 1
    assert len(world.arrivals) == 65


@told
async def test_a_jobs_bucket_made_anew_is_noticed_and_its_rows_run(world: World) -> None:
    await start(world, 1)
    await world.create(job("filler", HOURLY))
    await world.create(job("a", SECONDS))
    await asyncio.sleep(5)
    world.cluster.jobs.clear()
    world.cluster.jobs_seq = 0
    await world.create(job("a", HOURLY))
    await asyncio.sleep(3)
    table, count = engine_of(world).table, len(world.arrivals)
    entry = table.get("a")
    assert entry is not None
    assert entry.job.schedule == HOURLY
    assert (len(table), table.seq) == (1, 1)
    assert lease_of(world).epoch == 2
    await world.create(job("new", ScheduleSpec(every="1s", run_at_start=True)))
    await asyncio.sleep(4.5)
    assert [arrival.subject for arrival in world.arrivals[count:]] == ["new"] * 5
    assert lease_of(world).mark.jobs_seq == 2


# The planner and the term's begin.


@told
async def test_the_planner_is_filled_before_the_lease_is_taken(world: World) -> None:
    await world.create(job("a", SECONDS))
    world.cluster.put_lease(Lease(epoch=3, mark=Mark(instant_ms=world.clock.now_ms(), jobs_seq=1, note=NoteRef())))
    order: list[str] = []
    restart, put_lease = Planner.restart, world.cluster.put_lease

    def filled(planner: Planner, mark: Mark) -> None:
        order.append("filled")
        restart(planner, mark)

    def taken(lease: Lease) -> int:
        order.append("taken")
        return put_lease(lease)

    world.cluster.put_lease = taken  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Planner, "restart", filled)
        await start(world, 1)
        await asyncio.sleep(0.1)
    assert order == ["filled", "taken"]
    assert engine_of(world).is_leader


@told
async def test_a_mark_that_was_pulled_back_is_not_undone_by_the_watch_while_jobs_are_planned(world: World) -> None:
    for n in range(600):
        await world.create(job(f"a{n}", ScheduleSpec(every="5s")))
    now = world.clock.now_ms()
    world.cluster.put_lease(Lease(epoch=3, mark=Mark(instant_ms=now + THREE_YEARS_MS, jobs_seq=600, note=NoteRef())))
    restart, pulled_back = Planner.restart, []

    def watched(planner: Planner, mark: Mark) -> None:
        restart(planner, mark)
        if mark.instant_ms < now + THREE_YEARS_MS:
            # The watch is made anew just then, and shows the record as it is in the store.
            pulled_back.append(mark)
            storage_of(world).watches[1].renew()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Planner, "restart", watched)
        await start(world, 1)
        await asyncio.sleep(10)
    assert pulled_back
    assert len(world.arrivals) >= 600
    assert lag_ms(world) < 3_000


@told
async def test_a_stale_copy_of_a_row_does_not_send_a_trigger_twice(world: World) -> None:
    await world.create(job("a", HOURLY))
    await start(world, 1)
    await asyncio.sleep(2)
    engine, watch = engine_of(world), storage_of(world).watches[1]
    seen = engine.row

    def then_deaf(row: OpenRow, revision: int) -> None:
        seen(row, revision)
        watch.deaf = True

    engine.row = then_deaf  # type: ignore[method-assign]
    await engine.trigger("a")
    await asyncio.sleep(0.4)
    assert watch.deaf
    assert len(world.arrivals) == 1
    link_of(world).abort()
    await asyncio.sleep(5)
    watch.renew()
    await asyncio.sleep(5)
    assert lease_of(world).epoch == 2
    assert len(world.arrivals) == 1


@told
async def test_an_idempotency_key_used_after_its_record_is_gone_leaves_no_row_behind(world: World) -> None:
    await world.create(job("a", HOURLY))
    await start(world, 1)
    await asyncio.sleep(2)
    first = await engine_of(world).trigger("a", key="k")
    await asyncio.sleep(3)
    assert len(world.arrivals) == 1
    world.cluster.runs.clear()
    assert await engine_of(world).trigger("a", key="k") == first
    await asyncio.sleep(3)
    assert world.cluster.rows == {}
    await world.instances[0].stop()
    await start(world, 1)
    await asyncio.sleep(3)
    assert len(world.arrivals) == 1


# The end.


@told
async def test_a_clean_stop_does_not_wait_for_runs_that_wait_for_their_retry(world: World) -> None:
    def nobody(message: Outgoing) -> Reply | None:
        return Reply(message.token, "503", {}, b"") if message.token else None

    world.cluster.on_message = nobody
    patient = Job(
        id="a",
        schedule=ScheduleSpec(every="10s"),
        delivery=Delivery.REQUEST,
        retry=Retry(attempts=5, backoff_ms=60_000),
    )
    await world.create(patient)
    await start(world, 1)
    await asyncio.sleep(12)
    began = world.loop.time()
    await engine_of(world).stop(30.0)
    assert world.loop.time() - began < 1
    assert [row.state for row, _ in world.cluster.rows.values()] == [OpenState.RETRY]


# Once slots.


@told
async def test_a_once_slot_that_was_over_when_it_began_to_count_is_recorded(world: World) -> None:
    await start(world, 1)
    later, earlier, paused = (ms_to_text(world.clock.now_ms() + ms) for ms in (3_600_000, -60_000, 630_000))
    await world.create(job("edited", ScheduleSpec(at=later)))
    await asyncio.sleep(600)
    await world.edit("edited", schedule=ScheduleSpec(at=earlier))
    await world.create(job("paused", ScheduleSpec(at=paused)))
    await asyncio.sleep(5)
    await world.edit("paused", paused=True)
    await asyncio.sleep(120)
    await world.edit("paused", paused=False)
    await asyncio.sleep(60)
    assert await records(world, "edited") == [("skipped", "once_passed")]
    assert await records(world, "paused") == [("skipped", "once_passed")]
    assert world.arrivals == []
