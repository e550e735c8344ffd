"""What every LeaseStore and its links do."""

# A check's name is its sentence, and assert is how it fails.
# ruff: noqa: D102, PLR2004, S101

import asyncio
from typing import TYPE_CHECKING, Final

from natscron.errors import (
    LeadershipLostError,
    LimitExceededError,
    WrongRevisionError,
)
from natscron.model import (
    Delivery,
    Holder,
    Lease,
    Mark,
    Ms,
    Node,
    NoteRef,
    OpenRow,
    OpenState,
)
from natscron.storage.protocol import LeaderLink, Outgoing, Storage
from natscron.testing.conformance.sinks import WAIT_S, State, a_job, fails, ignore

if TYPE_CHECKING:
    from collections.abc import Awaitable

_ME: Final = Holder("host", "nonce")
_STATES: Final = (OpenState.PENDING, OpenState.RUNNING, OpenState.RETRY)


def _lease(epoch: int = 1, instant_ms: Ms = 5, note: NoteRef | None = None) -> Lease:
    return Lease(epoch=epoch, mark=Mark(instant_ms=instant_ms, jobs_seq=3, note=note or NoteRef()), holder=_ME)


def _row(run_id: str, state: OpenState = OpenState.RUNNING) -> OpenRow:
    return OpenRow(
        run_id=run_id,
        job_id="jobs.a",
        generation=1,
        scheduled_at_ms=5,
        state=state,
        delivery=Delivery.REQUEST,
        deadline_ms=99,
        epoch=1,
        payload={"n": [1, None, "x"]},
    )


class LeaseStoreChecks:
    """The LeaseStore role, and its link."""

    async def test_there_is_no_lease_at_first_and_one_of_many_gets_it(self, storage: Storage) -> None:
        links = [await storage.open_link(ignore) for _ in range(3)]
        assert await links[0].read_lease() is None
        results = await asyncio.gather(*(link.write_lease(_lease(), 0) for link in links), return_exceptions=True)
        won = [result for result in results if isinstance(result, int)]
        assert len(won) == 1
        assert sum(isinstance(result, WrongRevisionError) for result in results) == 2
        for link in links:
            record = await link.read_lease()
            assert record is not None
            assert (record.lease, record.revision) == (_lease(), won[0])
            assert record.stored_at_ms > 0
            await link.close()

    async def test_a_renewal_needs_the_revision_before_it(self, storage: Storage) -> None:
        link = await storage.open_link(ignore)
        first = await link.write_lease(_lease(), 0)
        second = await link.write_lease(_lease(instant_ms=6), first)
        assert second > first
        for wrong in (first, second + 100, 0):
            await fails(WrongRevisionError, link.write_lease(_lease(instant_ms=7), wrong))
        record = await link.read_lease()
        assert record is not None
        assert (record.revision, record.lease) == (second, _lease(instant_ms=6))
        await link.close()

    async def test_a_refused_write_leaves_the_link_whole(self, storage: Storage) -> None:
        link = await storage.open_link(ignore)
        await fails(WrongRevisionError, link.write_lease(_lease(), 77))
        assert not link.broken.is_set()
        await link.write_lease(_lease(), 0)
        await link.close()

    async def test_notes_and_rows_are_read_after_the_mark_and_below_the_barrier(self, storage: Storage) -> None:
        link = await storage.open_link(ignore)
        for ref, ids in ((NoteRef(1, 1), ["a"]), (NoteRef(1, 2), ["b", "c"]), (NoteRef(2, 1), ["d"])):
            await link.commit(ref, [], ids)
        rows = [_row(state.value, state) for state in _STATES]
        await link.save_rows(rows)
        barrier = await link.write_lease(_lease(3), 0)
        await link.commit(NoteRef(3, 1), [], ["later"])
        await link.save_rows([_row("later")])
        snapshot = await link.read_state(NoteRef(1, 1), barrier)
        assert [(note.ref, note.run_ids) for note in snapshot.notes] == [
            (NoteRef(1, 2), ("b", "c")),
            (NoteRef(2, 1), ("d",)),
        ]
        assert all(note.stored_at_ms > 0 for note in snapshot.notes)
        assert sorted(snapshot.rows, key=lambda row: row.run_id) == sorted(rows, key=lambda row: row.run_id)
        await link.close()

    async def test_a_successor_reads_what_another_link_had_stored(self, storage: Storage) -> None:
        before = await storage.open_link(ignore)
        revision = await before.write_lease(_lease(), 0)
        await before.commit(NoteRef(1, 1), [], ["a"], [_row("r")])
        before.abort()
        link = await storage.open_link(ignore)
        barrier = await link.write_lease(_lease(2), revision)
        snapshot = await link.read_state(NoteRef(), barrier)
        assert [note.run_ids for note in snapshot.notes] == [("a",)]
        assert [row.run_id for row in snapshot.rows] == ["r"]
        await link.close()

    async def test_a_commit_without_run_ids_writes_no_note(self, storage: Storage) -> None:
        link = await storage.open_link(ignore)
        await link.commit(NoteRef(1, 0), [], [], [_row("r")])
        barrier = await link.write_lease(_lease(), 0)
        snapshot = await link.read_state(NoteRef(), barrier)
        assert (snapshot.notes, [row.run_id for row in snapshot.rows]) == ((), ["r"])
        await link.close()

    async def test_rows_are_overwritten_and_deleted_and_unknown_ones_are_no_error(self, storage: Storage) -> None:
        link = await storage.open_link(ignore)
        await link.save_rows([_row("a"), _row("b")])
        await link.save_rows([_row("a", OpenState.RETRY)])
        await link.delete_rows(["b", "unknown"])
        await link.save_rows([])
        await link.delete_rows([])
        barrier = await link.write_lease(_lease(), 0)
        assert (await link.read_state(NoteRef(), barrier)).rows == (_row("a", OpenState.RETRY),)
        await link.close()

    async def test_purging_takes_the_notes_up_to_the_given_one_and_those_of_earlier_epochs(
        self, storage: Storage
    ) -> None:
        link = await storage.open_link(ignore)
        for ref in (NoteRef(1, 8), NoteRef(1, 9), NoteRef(2, 1), NoteRef(2, 2), NoteRef(2, 10)):
            await link.commit(ref, [], ["x"])
        await link.save_rows([_row("r")])
        await link.purge_notes(NoteRef(2, 2))
        barrier = await link.write_lease(_lease(), 0)
        snapshot = await link.read_state(NoteRef(), barrier)
        assert [note.ref for note in snapshot.notes] == [NoteRef(2, 10)]
        assert [row.run_id for row in snapshot.rows] == ["r"]
        await link.purge_notes(NoteRef(2, 2))
        await link.close()

    async def test_a_successor_purges_the_notes_of_the_leader_before_it(self, storage: Storage) -> None:
        before = await storage.open_link(ignore)
        await before.commit(NoteRef(1, 1), [], ["a"])
        await before.close()
        link = await storage.open_link(ignore)
        first = await link.write_lease(_lease(2), 0)
        await link.read_state(NoteRef(), first)
        await link.commit(NoteRef(2, 1), [], ["b"])
        await link.purge_notes(NoteRef(2, 0))
        barrier = await link.write_lease(_lease(2), first)
        assert [note.ref for note in (await link.read_state(NoteRef(), barrier)).notes] == [NoteRef(2, 1)]
        await link.close()

    async def test_the_link_knows_the_jobs_last_sequence(self, storage: Storage) -> None:
        link = await storage.open_link(ignore)
        await storage.create_job(a_job())
        assert await link.jobs_seq() == await storage.last_jobs_seq()
        await storage.delete_job("jobs.a")
        assert await link.jobs_seq() == await storage.last_jobs_seq()
        await link.close()

    async def test_a_message_over_the_maximum_is_refused_while_it_is_staged(self, storage: Storage) -> None:
        link = await storage.open_link(ignore)
        assert link.stage(Outgoing("out", (), b"x" * 100)).size >= 100
        try:
            link.stage(Outgoing("out", (), b"x" * (link.max_payload + 1)))
        except LimitExceededError:
            await link.close()
            return
        raise AssertionError("expected LimitExceededError")

    async def test_after_an_abort_every_method_fails_and_nothing_is_written(self, storage: Storage) -> None:
        link = await storage.open_link(ignore)
        revision = await link.write_lease(_lease(), 0)
        link.abort()
        link.abort()
        async with asyncio.timeout(WAIT_S):
            await link.broken.wait()
        attempts: list[Awaitable[object]] = [
            link.write_lease(_lease(9), revision),
            link.read_lease(),
            link.save_rows([_row("r")]),
            link.delete_rows(["r"]),
            link.read_state(NoteRef(), revision),
            link.jobs_seq(),
            link.drain(),
        ]
        for attempt in attempts:
            await fails(LeadershipLostError, attempt)
        try:
            link.commit(NoteRef(1, 1), [], ["a"])
        except LeadershipLostError:
            await link.close()
        else:
            raise AssertionError("expected LeadershipLostError")
        other = await storage.open_link(ignore)
        barrier = await other.write_lease(_lease(2), revision)
        snapshot = await other.read_state(NoteRef(), barrier)
        assert (snapshot.notes, snapshot.rows) == ((), ())
        await other.close()

    async def test_messages_rows_and_note_are_handed_over_together(self, storage: Storage) -> None:
        link = await storage.open_link(ignore)
        subjects = storage.capabilities.subjects
        staged = [link.stage(Outgoing(f"out.{n}", (("h", "v"),), b"body")) for n in range(3)] if subjects else []
        await link.commit(NoteRef(1, 1), staged, ["a", "b", "c"], [_row("a"), _row("b")])
        await link.drain()
        barrier = await link.write_lease(_lease(), 0)
        snapshot = await link.read_state(NoteRef(), barrier)
        assert [note.run_ids for note in snapshot.notes] == [("a", "b", "c")]
        assert sorted(row.run_id for row in snapshot.rows) == ["a", "b"]
        await link.close()

    async def test_what_an_abort_leaves_of_a_commit_is_never_a_note_without_its_rows(self, storage: Storage) -> None:
        for n in range(1, 11):
            link = await storage.open_link(ignore)
            await link.read_lease()
            link.commit(NoteRef(n, 1), [], [f"run-{n}"], [_row(f"run-{n}")])
            for _ in range(n % 3):
                await asyncio.sleep(0)
            link.abort()
        link = await storage.open_link(ignore)
        barrier = await link.write_lease(_lease(99), 0)
        snapshot = await link.read_state(NoteRef(), barrier)
        noted = {run_id for note in snapshot.notes for run_id in note.run_ids}
        assert noted <= {row.run_id for row in snapshot.rows}
        await link.close()

    async def test_closing_a_link_lets_what_was_handed_over_arrive(self, storage: Storage) -> None:
        link = await storage.open_link(ignore)
        for n in range(1, 51):
            link.commit(NoteRef(1, n), [], [f"run-{n}"])
        await link.close()
        await link.close()
        other = await storage.open_link(ignore)
        barrier = await other.write_lease(_lease(), 0)
        notes = (await other.read_state(NoteRef(), barrier)).notes
        assert [note.ref.n for note in notes] == list(range(1, 51))
        await other.close()

    async def test_closing_the_storage_breaks_its_links(self, storage: Storage) -> None:
        link = await storage.open_link(ignore)
        await storage.close()
        await storage.close()
        async with asyncio.timeout(WAIT_S):
            await link.broken.wait()

    async def test_a_watch_sees_lease_rows_and_nodes(self, storage: Storage) -> None:
        link = await storage.open_link(ignore)
        node = Node(instance="host", nonce="n", version="1", started_at_ms=5)
        first = await link.write_lease(_lease(), 0)
        await link.save_rows([_row("old")])
        await storage.announce(node)
        sink = State()
        watch = storage.watch_state(sink)
        await watch.ready()
        assert [record.revision for record in sink.leases] == [first]
        assert sink.rows == {"old": _row("old")}
        assert sink.nodes == {("host", "n"): node}
        second = await link.write_lease(_lease(instant_ms=6), first)
        await link.save_rows([_row("new")])
        await link.delete_rows(["old"])
        await storage.retract(node)
        await sink.until(lambda: set(sink.rows) == {"new"} and not sink.nodes)
        assert sink.leases[-1].revision == second
        assert sink.leases[-1] == await link.read_lease()
        await watch.close()
        await link.close()

    async def test_a_renewed_watch_sees_the_lease_again_at_its_revision(self, storage: Storage) -> None:
        link = await storage.open_link(ignore)
        revision = await link.write_lease(_lease(), 0)
        sink = State()
        watch = storage.watch_state(sink)
        await watch.ready()
        watch.renew()
        await sink.until(lambda: [record.revision for record in sink.leases] == [revision, revision])
        await watch.close()
        await link.close()

    async def test_a_triggers_row_is_laid_down_once(self, storage: Storage) -> None:
        assert await storage.submit_row(_row("t", OpenState.PENDING))
        assert not await storage.submit_row(_row("t", OpenState.RUNNING))
        link: LeaderLink = await storage.open_link(ignore)
        barrier = await link.write_lease(_lease(), 0)
        assert (await link.read_state(NoteRef(), barrier)).rows == (_row("t", OpenState.PENDING),)
        await link.close()

    async def test_a_row_is_read_as_it_is_in_the_store_whoever_wrote_it(self, storage: Storage) -> None:
        assert await storage.fetch_row("t") is None
        await storage.submit_row(_row("t", OpenState.PENDING))
        assert await storage.fetch_row("t") == _row("t", OpenState.PENDING)
        assert await storage.fetch_row("other") is None
        link = await storage.open_link(ignore)
        await link.write_lease(_lease(), 0)
        await link.save_rows([_row("t", OpenState.RETRY)])
        assert await storage.fetch_row("t") == _row("t", OpenState.RETRY)
        await link.delete_rows(["t"])
        assert await storage.fetch_row("t") is None
        await link.close()
