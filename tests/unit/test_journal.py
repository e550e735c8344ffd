"""The journal: trust before each chunk, notes in order, and what ends a leadership."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from natscron.engine import journal as module
from natscron.engine.journal import UNACKED_AGE_S, Chunk, Journal, Ready
from natscron.engine.planner import Cursor
from natscron.engine.storetime import StoreClock
from natscron.engine.table import Entry
from natscron.engine.trust import Trust, read
from natscron.errors import LeadershipLostError, StorageUncertainError
from natscron.model import Delivery, Job, NoteRef, OpenRow, OpenState, Trigger
from natscron.schedule.once import OnceSchedule
from natscron.storage.memory import MemoryCluster, MemoryLink
from natscron.storage.protocol import Outgoing, Staged
from natscron.testing.virtual import VirtualClock, run

CURSOR = Cursor(Entry(Job(id="a"), None, ()), OnceSchedule(0), 0, None)


class SlowLink(MemoryLink):
    """Notes what is handed over; answers when it is told to."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(MemoryCluster(clock), lambda _reply: None, 0.0)
        self.handed: list[tuple[NoteRef, list[Any], list[str], list[OpenRow]]] = []
        self.answers: list[asyncio.Future[None]] = []
        self.drained = 0

    def commit(
        self, note: NoteRef, staged: Sequence[Staged], run_ids: Sequence[str], rows: Sequence[OpenRow] = ()
    ) -> "asyncio.Future[None]":
        self.handed.append((note, [one.data for one in staged], list(run_ids), list(rows)))
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        return answer

    async def drain(self) -> None:
        self.drained += 1
        await super().drain()


class Desk:
    """A journal on virtual time."""

    def __init__(self, lease_s: float = 2.0) -> None:
        self.host = VirtualClock(asyncio.get_running_loop())
        self.link = SlowLink(self.host)
        self.trust = Trust(lease_s, read(self.host))
        self.stored: list[int] = []
        self.journal = Journal(self.link, 9, self.trust, StoreClock(self.host, 0), self._stored)

    def _stored(self, chunk: Chunk) -> None:
        self.stored.append(chunk.n)


def runs(*ids: str) -> list[Ready]:
    return [
        Ready(
            5,
            5,
            CURSOR,
            Trigger.SCHEDULE,
            one,
            Delivery.CORE,
            Staged(one.upper(), 1),
            "a",
            guarded=False,
            tracked=False,
        )
        for one in ids
    ]


def on_virtual_time(main: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test that runs on virtual time."""

    def test() -> None:
        run(main())

    test.__name__ = main.__name__
    return test


@on_virtual_time
async def test_a_chunk_goes_out_with_its_note_and_the_notes_are_numbered() -> None:
    desk = Desk()
    sent: list[tuple[int, int, int]] = []
    await desk.journal.commit(runs("x", "y"), lambda chunk: sent.append((chunk.n, chunk.sent_ms, desk.link.drained)))
    await desk.journal.commit(runs("z"))
    assert desk.link.handed == [
        (NoteRef(9, 1), ["X", "Y"], ["x", "y"], []),
        (NoteRef(9, 2), ["Z"], ["z"], []),
    ]
    assert sent == [(1, desk.host.now_ms(), 0)], "told before the socket is waited for: an answer may come meanwhile"
    assert desk.link.drained == 2
    assert (desk.journal.last_n, desk.journal.stored_n) == (2, 0)


@on_virtual_time
async def test_what_is_stored_follows_the_order_of_the_notes() -> None:
    desk = Desk()
    for name in ("x", "y", "z"):
        await desk.journal.commit(runs(name))
    desk.link.answers[1].set_result(None)
    await asyncio.sleep(0)
    assert (desk.stored, desk.journal.stored_n) == ([], 0)
    desk.link.answers[0].set_result(None)
    await asyncio.sleep(0)
    assert (desk.stored, desk.journal.stored_n) == ([1, 2], 2)


@on_virtual_time
async def test_nothing_is_handed_over_after_trust_ended_and_the_link_is_cut() -> None:
    desk = Desk()
    await asyncio.sleep(1.4)
    await desk.journal.commit(runs("x"))
    desk.link.answers[0].set_result(None)
    await asyncio.sleep(0.1)
    with pytest.raises(LeadershipLostError, match="trust"):
        await desk.journal.commit(runs("y"))
    assert len(desk.link.handed) == 1
    assert desk.link.broken.is_set()


@on_virtual_time
async def test_rows_too_are_not_handed_over_after_trust_ended() -> None:
    desk = Desk()
    await asyncio.sleep(1.5)
    with pytest.raises(LeadershipLostError, match="trust"):
        await desk.journal.commit_rows([Staged("X", 1)], [])
    assert desk.link.handed == []
    assert desk.link.broken.is_set()


@on_virtual_time
async def test_a_renewed_trust_lets_chunks_go_on() -> None:
    desk = Desk()
    await asyncio.sleep(1.4)
    desk.trust.renewed(read(desk.host))
    await asyncio.sleep(1.4)
    await desk.journal.commit(runs("x"))
    assert len(desk.link.handed) == 1


@on_virtual_time
async def test_a_host_that_slept_hands_nothing_over() -> None:
    desk = Desk()
    await asyncio.sleep(0.5)
    desk.host.frozen_s += 0.4
    with pytest.raises(LeadershipLostError, match="trust"):
        await desk.journal.commit(runs("x"))
    assert desk.link.handed == []


@on_virtual_time
async def test_a_chunk_waits_for_a_note_that_is_long_unanswered() -> None:
    desk = Desk()
    await desk.journal.commit(runs("x"))
    await asyncio.sleep(UNACKED_AGE_S / 2)
    await desk.journal.commit(runs("y"))
    await asyncio.sleep(UNACKED_AGE_S)
    waiting = asyncio.create_task(desk.journal.commit(runs("z")))
    await asyncio.sleep(0.1)
    assert len(desk.link.handed) == 2
    # The first answer is not enough: the second note is too old as well.
    desk.link.answers[0].set_result(None)
    await asyncio.sleep(0.1)
    assert len(desk.link.handed) == 2
    desk.link.answers[1].set_result(None)
    await waiting
    assert len(desk.link.handed) == 3


def test_no_more_than_a_bound_of_notes_is_unanswered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNACKED_MAX", 3)

    async def main() -> None:
        desk = Desk()
        for name in ("x", "y", "z"):
            await desk.journal.commit(runs(name))
        waiting = asyncio.create_task(desk.journal.commit(runs("w")))
        await asyncio.sleep(0.01)
        assert len(desk.link.handed) == 3
        desk.link.answers[0].set_result(None)
        await waiting
        assert len(desk.link.handed) == 4

    run(main())


@on_virtual_time
async def test_trust_that_ends_while_a_chunk_waits_ends_the_leadership() -> None:
    desk = Desk()
    await desk.journal.commit(runs("x"))
    await asyncio.sleep(UNACKED_AGE_S)
    began = desk.host.now_s()
    with pytest.raises(LeadershipLostError, match="trust"):
        await desk.journal.commit(runs("y"))
    assert desk.host.now_s() - began == pytest.approx(1.5 - UNACKED_AGE_S)
    assert len(desk.link.handed) == 1
    assert desk.link.broken.is_set()


@on_virtual_time
async def test_a_refused_note_ends_the_leadership_at_once() -> None:
    desk = Desk()
    await desk.journal.commit(runs("x"))
    desk.link.answers[0].set_exception(StorageUncertainError("no answer"))
    await asyncio.sleep(0)
    assert desk.link.broken.is_set()
    assert (desk.stored, desk.journal.stored_n) == ([], 0)
    with pytest.raises(LeadershipLostError, match="no answer"):
        await desk.journal.commit(runs("y"))
    assert len(desk.link.handed) == 1


@on_virtual_time
async def test_a_chunk_that_waits_learns_of_a_refused_note() -> None:
    desk = Desk()
    await desk.journal.commit(runs("x"))
    await asyncio.sleep(UNACKED_AGE_S)
    waiting = asyncio.create_task(desk.journal.commit(runs("y")))
    await asyncio.sleep(0)
    desk.link.answers[0].set_exception(StorageUncertainError("refused"))
    with pytest.raises(LeadershipLostError, match="refused"):
        await waiting


@on_virtual_time
async def test_nothing_stored_after_a_refused_note_counts() -> None:
    desk = Desk()
    await desk.journal.commit(runs("x"))
    await desk.journal.commit(runs("y"))
    desk.link.answers[0].set_exception(StorageUncertainError("refused"))
    desk.link.answers[1].set_result(None)
    await asyncio.sleep(0)
    assert (desk.stored, desk.journal.stored_n) == ([], 0)


@on_virtual_time
async def test_rows_need_no_note_and_their_refusal_ends_the_leadership_too() -> None:
    desk = Desk()
    row = OpenRow(run_id="r", job_id="a", generation=1, scheduled_at_ms=5, state=OpenState.RUNNING)
    await desk.journal.commit_rows([Staged("X", 1)], [row])
    assert desk.link.handed == [(NoteRef(9, 0), ["X"], [], [row])]
    assert desk.journal.last_n == 0
    desk.link.answers[0].set_exception(StorageUncertainError("refused"))
    await asyncio.sleep(0)
    assert desk.link.broken.is_set()


@on_virtual_time
async def test_settling_waits_for_all_notes_and_no_longer_than_it_may() -> None:
    desk = Desk()
    began = desk.host.now_s()
    await desk.journal.settle(1.0)
    assert desk.host.now_s() == began
    await desk.journal.commit(runs("x"))
    await desk.journal.settle(0.5)
    assert desk.host.now_s() - began == pytest.approx(0.5)
    settling = asyncio.create_task(desk.journal.settle(60))
    await asyncio.sleep(0.2)
    desk.link.answers[0].set_result(None)
    await settling
    assert desk.host.now_s() - began == pytest.approx(0.7)


@on_virtual_time
async def test_a_cut_between_messages_and_note_leaves_messages_without_a_note_never_the_other_way_round() -> None:
    arrived: list[str] = []

    def keep(message: Outgoing) -> None:
        arrived.append(message.subject)

    host = VirtualClock(asyncio.get_running_loop())
    for cut in range(4):
        arrived.clear()
        cluster = MemoryCluster(host, keep)
        link = MemoryLink(cluster, lambda _reply: None, 0.001)
        journal = Journal(link, 1, Trust(2.0, read(host)), StoreClock(host, 0), lambda _chunk: None)
        ready = [
            Ready(
                5,
                5,
                CURSOR,
                Trigger.SCHEDULE,
                name,
                Delivery.CORE,
                link.stage(Outgoing(name, (), b"")),
                "a",
                guarded=False,
                tracked=False,
            )
            for name in ("x", "y")
        ]
        await journal.commit(ready)
        for _ in range(cut):
            link._writes.popleft()()
        link.abort()
        await asyncio.sleep(0.01)
        assert arrived == ["x", "y"][:cut]
        assert (NoteRef(1, 1) in cluster.notes) == (cut == 3)
