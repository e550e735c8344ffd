"""Lease, journal, open rows, nodes and history on a real server."""

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path

import pytest

from natscron.codec.state import NewerRecordError
from natscron.errors import LeadershipLostError, LimitExceededError, StorageError, WrongRevisionError
from natscron.model import (
    Holder,
    Job,
    Lease,
    LeaseRecord,
    Mark,
    Ms,
    Node,
    NoteRef,
    OpenRow,
    OpenState,
)
from natscron.storage.nats import NatsStorage, NatsStorageOptions
from natscron.storage.nats.keys import StateKeys
from natscron.storage.protocol import LeaderLink, Outgoing, Reply
from natscron.testing.nats import NatsCluster, NatsServer, TcpProxy
from natscron.wire.kv import bucket_config, entry_of
from natscron.wire.options import ConnectOptions

pytestmark = pytest.mark.anyio

_numbers = count(1)
ME = Holder("host", "nonce")


def a_lease(epoch: int = 1, instant_ms: Ms = 5) -> Lease:
    return Lease(epoch=epoch, mark=Mark(instant_ms=instant_ms), holder=ME, duration_ms=3_000)


def a_row(run_id: str) -> OpenRow:
    return OpenRow(run_id=run_id, job_id="a", generation=1, scheduled_at_ms=5, state=OpenState.RUNNING)


class Observer:
    """A state sink that remembers."""

    def __init__(self) -> None:
        self.leases: list[LeaseRecord] = []
        self.rows: dict[str, OpenRow] = {}
        self.nodes: dict[tuple[str, str], Node] = {}
        self.newer_ones: dict[str, str] = {}
        self._changed = asyncio.Event()

    def lease(self, record: LeaseRecord) -> None:
        self.leases.append(record)
        self._changed.set()

    def row(self, row: OpenRow, revision: int) -> None:
        assert revision > 0
        self.rows[row.run_id] = row
        self._changed.set()

    def row_gone(self, run_id: str) -> None:
        self.rows.pop(run_id, None)
        self._changed.set()

    def newer(self, record: str, why: str | None) -> None:
        if why is None:
            self.newer_ones.pop(record, None)
        else:
            self.newer_ones[record] = why
        self._changed.set()

    def node(self, node: Node, stored_at_ms: Ms) -> None:
        assert stored_at_ms > 0
        self.nodes[node.instance, node.nonce] = node
        self._changed.set()

    def node_gone(self, instance: str, nonce: str) -> None:
        self.nodes.pop((instance, nonce), None)
        self._changed.set()

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(15):
            while not done():
                self._changed.clear()
                await self._changed.wait()


class Inbox:
    """Takes replies, or messages of a subject."""

    def __init__(self) -> None:
        self.taken: list[Reply] = []
        self._changed = asyncio.Event()

    def __call__(self, reply: Reply) -> None:
        self.taken.append(reply)
        self._changed.set()

    async def holds(self, number: int) -> None:
        async with asyncio.timeout(15):
            while len(self.taken) < number:
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def options() -> NatsStorageOptions:
    return NatsStorageOptions(name=f"state-{next(_numbers)}")


@pytest.fixture
async def storage(shared_nats: NatsServer, options: NatsStorageOptions) -> AsyncIterator[NatsStorage]:
    storage = NatsStorage(ConnectOptions(url=shared_nats.url), options)
    await storage.initialize()
    yield storage
    await storage.close()


@pytest.fixture
async def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
async def link(storage: NatsStorage, inbox: Inbox) -> AsyncIterator[LeaderLink]:
    link = await storage.open_link(inbox)
    yield link
    await link.close()


# The lease.


async def test_there_is_no_lease_at_first_and_one_of_two_gets_it(storage: NatsStorage, link: LeaderLink) -> None:
    assert await link.read_lease() is None
    other = await storage.open_link(lambda _: None)
    revision = await link.write_lease(a_lease(), 0)
    with pytest.raises(WrongRevisionError):
        await other.write_lease(a_lease(), 0)
    record = await other.read_lease()
    assert record is not None
    assert (record.lease, record.revision) == (a_lease(), revision)
    assert record.stored_at_ms > 0
    await other.close()


async def test_a_renewal_needs_the_revision_before_it(link: LeaderLink) -> None:
    first = await link.write_lease(a_lease(), 0)
    second = await link.write_lease(a_lease(instant_ms=6), first)
    with pytest.raises(WrongRevisionError):
        await link.write_lease(a_lease(instant_ms=7), first)
    record = await link.read_lease()
    assert record is not None
    assert (record.revision, record.lease.mark.instant_ms) == (second, 6)


async def test_a_lease_that_somebody_deleted_can_be_taken_again(
    storage: NatsStorage, link: LeaderLink, options: NatsStorageOptions
) -> None:
    await link.write_lease(a_lease(), 0)
    await storage.connection.publish(StateKeys(options).lease, b"", headers={"KV-Operation": "DEL"})
    await storage.connection.flush()
    assert await link.read_lease() is None
    assert await link.write_lease(a_lease(2), 0) > 0


async def test_a_lease_of_a_newer_version_cannot_be_read_and_so_not_be_taken(
    storage: NatsStorage, link: LeaderLink, options: NatsStorageOptions
) -> None:
    await storage.connection.request(StateKeys(options).lease, b'{"reader":3,"who":"knows"}')
    with pytest.raises(NewerRecordError, match="update this instance"):
        await link.read_lease()


# The journal.


async def test_messages_leave_before_rows_and_note_and_the_future_proves_them(
    storage: NatsStorage, link: LeaderLink, options: NatsStorageOptions
) -> None:
    got: list[bytes] = []
    subscription = await storage.connection.subscribe(f"{options.name}.x.*", lambda message: got.append(message.data))
    await storage.connection.flush()
    staged = [link.stage(Outgoing(f"{options.name}.x.{n}", (("A", "b"),), str(n).encode())) for n in range(256)]
    await link.commit(NoteRef(1, 1), staged, ["R1"], [a_row("R1")])
    await storage.connection.flush()
    assert got == [str(n).encode() for n in range(256)]
    await subscription.unsubscribe()


async def test_notes_and_rows_are_read_back_below_the_barrier(storage: NatsStorage, link: LeaderLink) -> None:
    revision = await link.write_lease(a_lease(), 0)
    await asyncio.gather(*(link.commit(NoteRef(1, n), [], [f"A{n}", f"B{n}"]) for n in range(1, 12)))
    await link.save_rows([a_row("R1"), a_row("R2"), a_row("R3")])
    await link.delete_rows(["R2", "unknown"])
    successor = await storage.open_link(lambda _: None)
    barrier = await successor.write_lease(a_lease(2), revision)
    # What the old leader still gets through lies behind the barrier.
    await link.commit(NoteRef(1, 12), [], ["LATE"], [a_row("LATE")])
    state = await successor.read_state(NoteRef(1, 3), barrier)
    assert [note.ref for note in state.notes] == [NoteRef(1, n) for n in range(4, 12)]
    assert state.notes[0].run_ids == ("A4", "B4")
    assert [row.run_id for row in state.rows] == ["R1", "R3"]
    await successor.close()


async def test_the_read_waits_for_the_barrier_also_when_the_lease_was_renewed(link: LeaderLink) -> None:
    barrier = await link.write_lease(a_lease(), 0)
    await link.commit(NoteRef(1, 1), [], ["LATE"])
    await link.write_lease(a_lease(instant_ms=9), barrier)
    state = await link.read_state(NoteRef(0, 0), barrier)
    assert (state.notes, state.rows) == ((), ())


async def test_notes_are_purged_up_to_the_mark_and_of_earlier_epochs_too(
    storage: NatsStorage, link: LeaderLink
) -> None:
    await link.commit(NoteRef(1, 1), [], ["A"])
    await link.commit(NoteRef(1, 2), [], ["B"])
    successor = await storage.open_link(lambda _: None)
    barrier = await successor.write_lease(a_lease(2), 0)
    await successor.read_state(NoteRef(0, 0), barrier)
    await successor.commit(NoteRef(2, 1), [], ["C"])
    await successor.commit(NoteRef(2, 2), [], ["D"])
    await successor.purge_notes(NoteRef(2, 1))
    await successor.purge_notes(NoteRef(2, 1))
    state = await successor.read_state(NoteRef(0, 0), 1_000)
    assert [note.run_ids for note in state.notes] == [("D",)]
    await successor.close()


async def test_a_commit_without_run_ids_writes_no_note(link: LeaderLink) -> None:
    await link.commit(NoteRef(1, 1), [link.stage(Outgoing("nobody", (), b"x"))], [], [a_row("R1")])
    await link.commit(NoteRef(1, 1), [link.stage(Outgoing("nobody", (), b"x"))], [])
    state = await link.read_state(NoteRef(0, 0), 1_000)
    assert (state.notes, [row.run_id for row in state.rows]) == ((), ["R1"])


async def test_records_that_nobody_can_read_are_left_out_and_newer_ones_stop_the_takeover(
    storage: NatsStorage, link: LeaderLink, options: NatsStorageOptions
) -> None:
    await storage.connection.request(StateKeys(options).row("bad"), b"\xff")
    await link.save_rows([a_row("good")])
    assert [row.run_id for row in (await link.read_state(NoteRef(0, 0), 1_000)).rows] == ["good"]
    await storage.connection.request(StateKeys(options).row("new"), b'{"reader":3}')
    with pytest.raises(NewerRecordError):
        await link.read_state(NoteRef(0, 0), 1_000)


async def test_replies_come_back_under_their_token(storage: NatsStorage, link: LeaderLink, inbox: Inbox) -> None:
    subject = f"{storage.options.name}.worker"
    connection = storage.connection
    subscription = await connection.subscribe(subject, lambda m: connection.publish_soon(m.reply, m.data + b"!"))
    await connection.flush()
    messages = [Outgoing(subject, (), b"hi", "tok.1"), Outgoing(f"{subject}.nobody", (), b"", "tok.2")]
    await link.commit(NoteRef(1, 1), [link.stage(message) for message in messages], ["A"])
    await inbox.holds(2)
    found = {reply.token: (reply.status, reply.data) for reply in inbox.taken}
    assert found == {"tok.1": ("", b"hi!"), "tok.2": ("503", b"")}
    await subscription.unsubscribe()


async def test_a_message_over_the_servers_maximum_is_refused_while_it_is_staged(link: LeaderLink) -> None:
    link.stage(Outgoing("a", (), b"x" * link.max_payload))
    with pytest.raises(LimitExceededError):
        link.stage(Outgoing("a", (("A", "b"),), b"x" * link.max_payload))


async def test_the_link_reads_the_jobs_sequence_from_the_stream(storage: NatsStorage, link: LeaderLink) -> None:
    assert await link.jobs_seq() == 0
    await storage.create_job(Job(id="a"))
    assert await link.jobs_seq() == 1


async def test_after_an_abort_nothing_is_written(storage: NatsStorage, link: LeaderLink) -> None:
    link.abort()
    assert link.broken.is_set()
    with pytest.raises(LeadershipLostError):
        link.commit(NoteRef(1, 1), [], ["A"])
    for call in (link.drain(), link.read_lease(), link.write_lease(a_lease(), 0), link.jobs_seq()):
        with pytest.raises(LeadershipLostError):
            await call
    link.abort()
    await link.close()
    other = await storage.open_link(lambda _: None)
    assert await other.read_lease() is None
    await other.close()


async def test_a_lost_link_ends_what_waits_and_stays_lost(proxy: TcpProxy, options: NatsStorageOptions) -> None:
    storage = NatsStorage(ConnectOptions(url=proxy.url), options)
    await storage.initialize()
    link = await storage.open_link(lambda _: None)
    proxy.freeze()
    future = link.commit(NoteRef(1, 1), [], ["A"])
    await proxy.cut()
    with pytest.raises(StorageError):
        await future
    await asyncio.wait_for(link.broken.wait(), 10)
    await proxy.mend()
    with pytest.raises(LeadershipLostError):
        link.commit(NoteRef(1, 2), [], ["B"])
    await link.close()
    await storage.close()


async def test_lease_journal_and_rows_on_a_cluster(shared_cluster: NatsCluster, options: NatsStorageOptions) -> None:
    storage = NatsStorage(ConnectOptions(url=shared_cluster.url), options)
    await storage.initialize()
    link = await storage.open_link(lambda _: None)
    revision = await link.write_lease(a_lease(), 0)
    for n in range(1, 20):
        await link.commit(NoteRef(1, n), [], [f"R{n}"], [a_row(f"R{n}")])
    successor = await storage.open_link(lambda _: None)
    barrier = await successor.write_lease(a_lease(2), revision)
    state = await successor.read_state(NoteRef(1, 5), barrier)
    assert len(state.notes) == 14
    assert len(state.rows) == 19
    await link.close()
    await successor.close()
    await storage.close()


async def test_a_link_opens_elsewhere_when_the_only_server_that_was_named_is_gone(tmp_path: Path) -> None:
    with NatsCluster(tmp_path) as cluster:
        storage = NatsStorage(ConnectOptions(url=cluster.servers[0].url), NatsStorageOptions(provision_timeout_s=30))
        await storage.initialize()
        up = Up()
        storage.connection.add_listener(up)
        cluster.servers[0].kill()
        await asyncio.wait_for(up.event.wait(), 20)
        link = await storage.open_link(lambda _: None)
        await link.close()
        await storage.close()


class Up:
    """Told when a connection is back."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def on_down(self) -> None:
        self.event.clear()

    def on_up(self) -> None:
        self.event.set()


# Watching.


async def test_the_state_watch_sees_lease_rows_and_nodes(storage: NatsStorage, link: LeaderLink) -> None:
    await link.write_lease(a_lease(), 0)
    await storage.submit_row(a_row("R1"))
    observer = Observer()
    watch = storage.watch_state(observer)
    await watch.ready()
    assert [record.lease for record in observer.leases] == [a_lease()]
    assert observer.rows == {"R1": a_row("R1")}
    node = Node(instance="host.example", nonce="n1", version="1", started_at_ms=5, status="leading")
    await storage.announce(node)
    await storage.submit_row(a_row("R2"))
    await observer.until(lambda: len(observer.rows) == 2 and len(observer.nodes) == 1)
    assert observer.nodes == {("host.example", "n1"): node}
    await storage.retract(node)
    await link.delete_rows(["R1", "R2"])
    await observer.until(lambda: not observer.rows and not observer.nodes)
    await watch.close()


async def test_a_fresh_watch_repeats_the_lease_and_reports_what_went_meanwhile(
    storage: NatsStorage, link: LeaderLink, options: NatsStorageOptions
) -> None:
    await link.write_lease(a_lease(), 0)
    await link.save_rows([a_row("R1"), a_row("R2")])
    observer = Observer()
    watch = storage.watch_state(observer)
    await watch.ready()
    request = {"filter": StateKeys(options).row("R1")}
    await storage.connection.js_request(f"STREAM.PURGE.{options.state_stream}", request)
    watch.renew()
    await observer.until(lambda: set(observer.rows) == {"R2"})
    assert [record.revision for record in observer.leases] == [1, 1]
    await watch.close()


async def test_a_record_of_a_newer_version_does_not_stop_the_watch(
    storage: NatsStorage, options: NatsStorageOptions
) -> None:
    observer = Observer()
    watch = storage.watch_state(observer)
    await watch.ready()
    await storage.connection.request(StateKeys(options).lease, b'{"reader":3}')
    await storage.submit_row(a_row("R1"))
    await observer.until(lambda: "R1" in observer.rows)
    assert observer.leases == []
    await watch.close()


async def test_records_of_a_newer_version_are_told_of_until_they_are_gone(
    storage: NatsStorage, options: NatsStorageOptions, link: LeaderLink
) -> None:
    observer = Observer()
    watch = storage.watch_state(observer)
    await watch.ready()
    keys = StateKeys(options)
    for record in (keys.lease, keys.row("R1"), keys.row("R2")):
        await storage.connection.request(record, b'{"reader":7}')
    await observer.until(lambda: len(observer.newer_ones) == 3)
    assert all("reader version 7" in why for why in observer.newer_ones.values())
    await link.delete_rows(["R1"])
    await observer.until(lambda: set(observer.newer_ones) == {keys.lease, keys.row("R2")})
    await storage.connection.js_request(f"STREAM.PURGE.{options.state_stream}", {"filter": keys.row("R2")})
    watch.renew()
    await observer.until(lambda: set(observer.newer_ones) == {keys.lease})
    await watch.close()


async def test_a_trigger_is_laid_down_once(storage: NatsStorage, link: LeaderLink) -> None:
    assert await storage.submit_row(a_row("R1")) is True
    assert await storage.submit_row(a_row("R1")) is False
    await link.delete_rows(["R1"])
    assert await storage.submit_row(a_row("R1")) is False


async def test_a_bucket_without_time_to_live_works_too(shared_nats: NatsServer, options: NatsStorageOptions) -> None:
    storage = NatsStorage(ConnectOptions(url=shared_nats.url), options)
    await storage.initialize()
    await storage.connection.js_request(f"STREAM.DELETE.{options.state_stream}")
    await storage.connection.js_request(f"STREAM.CREATE.{options.state_stream}", bucket_config(options.state_bucket))
    link = await storage.open_link(lambda _: None)
    node = Node(instance="h", nonce="n", version="1", started_at_ms=5)
    await storage.announce(node)
    await storage.retract(node)
    await link.save_rows([a_row("R1")])
    await link.delete_rows(["R1"])
    assert (await link.read_state(NoteRef(0, 0), 1_000)).rows == ()
    await link.close()
    await storage.close()


async def test_markers_and_announcements_carry_a_time_to_live(
    storage: NatsStorage, link: LeaderLink, options: NatsStorageOptions
) -> None:
    keys = StateKeys(options)
    node = Node(instance="h", nonce="n", version="1", started_at_ms=5)
    await storage.announce(node)
    await link.save_rows([a_row("R1")])
    await link.delete_rows(["R1"])
    for subject in (keys.node(node), keys.row("R1")):
        request = {"last_by_subj": subject}
        reply = await storage.connection.js_request(f"STREAM.MSG.GET.{options.state_stream}", request)
        assert "hdrs" in reply["message"]
        headers = entry_of(reply["message"]).headers
        assert headers is not None
        assert "Nats-TTL" in headers


async def test_closing_the_storage_ends_its_watches(storage: NatsStorage) -> None:
    before = asyncio.all_tasks()
    watches = [storage.watch_state(Observer()), storage.follow_runs(None, lambda _: None)]
    for watch in watches:
        await watch.ready()
    await storage.close()
    await storage.close()
    assert asyncio.all_tasks() <= before
