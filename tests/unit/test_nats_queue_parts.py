"""What the NATS run queue decides without a server: who is alive, what is next, what follows from what."""

import msgspec
import pytest

from natscron.errors import ConfigError, MalformedInputError
from natscron.model import Ms, Overlap, QueuedRun, Reason, RunStatus, WorkerInfo
from natscron.storage.nats import LibraryOptions
from natscron.storage.nats.lines import Line, Open, pick
from natscron.storage.nats.roster import Announcement, Roster, encode_announcement
from natscron.storage.nats.runrow import RowState, RunRow, decode_run_row, encode_run_row, row_key
from natscron.storage.nats.view import QueueView


class Time:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.s = 1_000.0

    def now_ms(self) -> Ms:
        return int(self.s * 1_000)

    def now_s(self) -> float:
        return self.s

    def trust_s(self) -> float:
        return self.s

    def monotonic_s(self) -> float:
        return self.s


def said(worker: str, node: str = "n", lease_ms: Ms = 3_000, handlers: tuple[str, ...] = ("",)) -> Announcement:
    return Announcement(WorkerInfo(id=worker, instance=worker, lease_ms=lease_ms, handlers=handlers), node)


def row(run_id: str = "r", **fields: object) -> RunRow:
    given = {"job": "j", "state": RowState.PENDING} | fields
    return RunRow(run_id=run_id, **given)  # type: ignore[arg-type]  # any of its fields


class TestRoster:
    def beats(self, roster: Roster, time: Time, workers: str, until: float, seq: int) -> int:
        while time.s < until:
            time.s += 1
            for worker in workers:
                seq += 1
                roster.read(worker, encode_announcement(said(worker)), seq)
        return seq

    def test_a_worker_that_is_silent_while_others_are_heard_is_dead_after_its_lease(self) -> None:
        time = Time()
        roster = Roster(time)  # type: ignore[arg-type]  # as much of a clock as it reads
        seq = self.beats(roster, time, "ab", 1_005, 0)
        seq = self.beats(roster, time, "a", 1_007, seq)
        assert not roster.dead("b")
        self.beats(roster, time, "a", 1_009, seq)
        assert roster.dead("b")
        assert not roster.dead("a")
        assert [info.id for info in roster.alive()] == ["a"]

    def test_nobody_is_dead_because_the_store_took_announcements_from_nobody(self) -> None:
        time = Time()
        roster = Roster(time)  # type: ignore[arg-type]  # as much of a clock as it reads
        seq = self.beats(roster, time, "ab", 1_005, 0)
        time.s += 8
        assert roster.alive() == []
        assert not roster.dead("b")
        seq = self.beats(roster, time, "a", time.s + 1, seq)
        # The other may be just about to say something.
        assert not roster.dead("b")
        self.beats(roster, time, "a", time.s + 2, seq)
        assert roster.dead("b")

    def test_whoever_is_not_known_is_dead_and_whoever_retires_too(self) -> None:
        roster = Roster(Time())  # type: ignore[arg-type]  # as much of a clock as it reads
        assert roster.dead("x")
        roster.announced(said("x"), 1)
        assert not roster.dead("x")
        roster.retired("x")
        assert roster.dead("x")

    def test_an_older_announcement_changes_nothing_and_a_broken_one_neither(self) -> None:
        roster = Roster(Time())  # type: ignore[arg-type]  # as much of a clock as it reads
        roster.read("x", encode_announcement(said("x", handlers=("new",))), 5)
        roster.read("x", encode_announcement(said("x", handlers=("old",))), 4)
        roster.read("x", b"{", 6)
        roster.read("x", None, 3)
        assert [info.handlers for info in roster.alive()] == [("new",)]
        roster.read("x", None, 7)
        assert roster.alive() == []

    def test_processes_are_told_apart_by_their_node_and_only_those_with_the_handler_count(self) -> None:
        roster = Roster(Time())  # type: ignore[arg-type]  # as much of a clock as it reads
        for seq, (worker, node, handler) in enumerate(
            [("a", "2", "h"), ("b", "1", "h"), ("c", "1", "h"), ("d", "3", "")]
        ):
            roster.announced(said(worker, node, handlers=(handler,)), seq + 1)
        assert roster.nodes("h") == ["1", "2"]


def opened(seq: int, run_id: str = "", **fields: object) -> Open:
    found = row(run_id or f"r{seq}", **fields)
    return Open(found, seq, 0.0, row_key(found))


class TestLines:
    def test_priority_then_instant_then_sequence(self) -> None:
        line = Line()
        for one in (
            opened(1, not_before_ms=50),
            opened(2, not_before_ms=40),
            opened(3, not_before_ms=40),
            opened(4, not_before_ms=90, priority=1),
            opened(5, not_before_ms=200),
        ):
            line.put(one)
        taken, passed = pick([line], 10, 100, None)
        assert ([one.seq for one in taken], passed) == ([4, 2, 3, 1], False)
        assert line.next_ms(100) == 200

    def test_what_is_not_claimable_any_more_is_passed_over(self) -> None:
        line, ones = Line(), [opened(n) for n in range(1, 600)]
        for one in ones:
            line.put(one)
        for one in ones[:598]:
            one.alive = False
        line.put(opened(600))
        assert [one.seq for one in pick([line], 10, 1, None)[0]] == [599, 600]
        assert line.next_ms(1) is None

    def test_runs_of_others_shares_stay_in_line(self) -> None:
        line = Line()
        for n in range(1, 7):
            line.put(opened(n))
        taken, passed = pick([line], 2, 1, lambda one: one.seq % 2 == 0)
        assert ([one.seq for one in taken], passed) == ([2, 4], True)
        assert [one.seq for one in pick([line], 9, 1, None)[0]] == [1, 3, 5, 6]


class TestRows:
    def test_a_row_comes_back_as_it_was_and_small(self) -> None:
        queued = QueuedRun(run_id="r", job="jobs.ä", generation=3, scheduled_at_ms=5, due_ms=7, payload=None)
        first = RunRow.of(queued)
        assert decode_run_row(encode_run_row(first)) == first
        assert len(encode_run_row(first)) < 200
        assert row_key(first).startswith("=b32.")
        assert "*" not in row_key(row("a*b.>"))

    def test_what_is_no_row_is_refused(self) -> None:
        for data in (b"", b"[]", b"{}", b'{"run_id":"r","job":"j","state":"other"}', b"\xff"):
            with pytest.raises(MalformedInputError):
                decode_run_row(data)

    def test_the_steps_of_a_run(self) -> None:
        waits = row(state=RowState.HELD, reason=Reason.OVERLAP_WAIT, overlap=Overlap.SKIP, by_leader=True)
        free = waits.let_go()
        assert (free.state, free.reason, free.by_leader, free.capacity) == (RowState.PENDING, None, False, 1)
        mine = free.claimed("w", "host", 9)
        assert (mine.going, mine.started_ms) == (True, 9)
        assert mine.given_back() == free
        again = mine.to_end("replaced").tried_again(70, Reason.RETRY)
        assert (again.attempt, again.not_before_ms, again.cancel, again.worker) == (2, 70, "", "")
        over = mine.over(RunStatus.COMPLETED, 20, 9)
        assert not over.going
        assert (over.payload, over.finished_ms) == (msgspec.UNSET, 20)


class TestView:
    def view(self) -> QueueView:
        return QueueView(LibraryOptions(), Time())  # type: ignore[arg-type]  # as much of a clock as it reads

    def test_of_two_versions_the_later_counts_in_whatever_order_they_come(self) -> None:
        view = self.view()
        view.apply(row(state=RowState.RUNNING, worker="w"), 7)
        view.apply(row(), 5)
        assert view.rows["r"].row.state is RowState.RUNNING
        view.apply(row().over(RunStatus.COMPLETED, 1), 9)
        view.apply(row(), 8)
        assert not view.rows
        assert view.knows("r")
        view.apply(row(attempt=2), 11)
        assert view.rows["r"].row.attempt == 2

    def test_what_a_full_set_lacks_is_gone_only_when_all_that_was_stored_has_been_seen(self) -> None:
        view, doubts = self.view(), []
        view.on_doubt = lambda: doubts.append(1)
        for n in range(1, 4):
            view.apply(row(f"r{n}"), n)
        view.on_complete(3)
        view.on_reset()
        view.on_message("$KV.SCHEDULER_EXECUTIONS.j.r1", None, encode_run_row(row("r1")), 1, 0)
        view.on_complete(3)
        assert set(view.rows) == {"r1", "r2", "r3"}
        assert doubts == [1]
        # Written anew while the set was on its way.
        view.apply(row("r3", attempt=2), 4)
        view.settle()
        assert set(view.rows) == {"r1", "r3"}

    def test_a_bucket_that_was_made_anew_is_read_from_the_beginning(self) -> None:
        view, renewed = self.view(), []
        view.on_stale = lambda: renewed.append(1)
        view.apply(row("old"), 900)
        view.on_complete(900)
        view.on_reset()
        view.on_complete(2)
        assert (renewed, view.rows, view.position) == ([1], {}, 0)

    def test_what_is_on_its_way_counts_as_going_and_is_not_claimable(self) -> None:
        view = self.view()
        one = view.enter(row())
        assert list(view.going["j"]) == ["r"]
        assert pick(view.lines([""]), 5, 1, None)[0] == []
        view.apply(row(), 3)
        assert [found.seq for found in pick(view.lines([""]), 5, 1, None)[0]] == [3]
        view.withdraw(one)
        assert "r" in view.rows


def test_names_follow_the_prefix_and_none_is_taken_that_nats_cannot_have() -> None:
    options = LibraryOptions(prefix="MINE")
    assert (options.jobs_bucket, options.runs_stream, options.log_stream) == (
        "MINE_JOBS",
        "KV_MINE_EXECUTIONS",
        "MINE_LOG",
    )
    # Not below the subjects that the Go library's stream holds.
    assert not LibraryOptions().log_prefix.startswith("scheduler.")
    assert not LibraryOptions().dead_prefix.startswith("scheduler.")
    for wrong in ({"prefix": "a b"}, {"dead_prefix": "a.*"}, {"over_ttl_ms": 10}, {"dead_max": 0}, {"replicas": 9}):
        with pytest.raises(ConfigError):
            LibraryOptions(**wrong)
